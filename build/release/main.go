// Command release builds what a release of the plugin consists of, into one
// directory:
//
//	release --version v1.2.3 --output DIR [--platforms OS/ARCH,...] [--url URL] [--tagged]
//	release --verify
//	release --attest --version v1.2.3 --output DIR --key KEY.pem --builder URI [--image NAME=ARCHIVE]...
//	release --verify-provenance --output DIR --key PUBLIC.pem
//
// For every platform an archive with the plugin, its man pages and its licence and a
// list of what is compiled into it (CycloneDX), the Helm chart, then checksums.txt over all of these,
// and plugins/gateway.yaml, the manifest for krew. Equal sources give
// files of equal bytes, as go.mod names the Go toolchain.
//
// With --tagged the source must be that of the version's tag, and the manifest is
// also put into the source tree, which serves krew as an index. --verify builds the
// tag of the manifest there once more and compares checksums.
//
// --attest is for releases outside of GitHub, whose workflow attests by itself: it adds a signed SLSA provenance of the archives
// and images. --verify-provenance holds the files in DIR against it.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// module is the plugin's.
const module = "github.com/kubectl-gateway/kubectl-gateway"

// options say what to build, and where.
type options struct {
	// root is the top of the source tree.
	root      string
	version   string
	output    string
	platforms []platform
	// url is the directory from which users download the archives.
	url string
	// tagged has the version's tag checked, and the index written.
	tagged bool
}

// semver is what krew takes for a version (https://semver.org, with a v before it).
var semver = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.StringVar(&o.version, "version", "", "version of the release, like v1.2.3")
	flags.StringVar(&o.output, "output", "", "directory to write, which is replaced")
	flags.StringVar(&o.root, "source", "", "top of the source tree (default: two above the current directory)")
	flags.StringVar(&o.url, "url", "", "where the archives can be downloaded (default: the release's page)")
	flags.BoolVar(&o.tagged, "tagged", false, "refuse any source but the version's tag, and write plugins/gateway.yaml there")
	verifies := flags.Bool("verify", false, "build what plugins/gateway.yaml offers once more, and compare")
	attests := flags.Bool("attest", false, "sign how the release in --output was built, with --key and --builder")
	proves := flags.Bool("verify-provenance", false, "hold the release in --output against what --key has signed of it")
	key := flags.String("key", "", "ECDSA key in PEM form")
	builder := flags.String("builder", "", "URI of who vouches for the machine that has built the release")
	var images []string
	flags.Func("image", "an image of the release, as NAME=ARCHIVE", func(image string) error {
		images = append(images, image)
		return nil
	})
	names := flags.String("platforms", allPlatforms, "platforms to build for")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is too much", flags.Args())
	}
	if o.root == "" {
		// As "go -C build/release run" leaves it.
		root, err := filepath.Abs(filepath.Join("..", ".."))
		if err != nil {
			return err
		}
		o.root = root
	}
	if *verifies {
		return verify(ctx, o.root)
	}
	if *proves {
		return verifyProvenance(ctx, o.output, *key)
	}
	if !semver.MatchString(o.version) || o.output == "" {
		return errors.New("--version vX.Y.Z and --output DIR are needed")
	}
	if *attests {
		return o.attest(ctx, *key, *builder, images)
	}
	if o.url == "" {
		o.url = "https://" + module + "/releases/download/" + o.version
	}
	for name := range strings.SplitSeq(*names, ",") {
		goos, goarch, ok := strings.Cut(name, "/")
		if !ok || !slices.Contains(strings.Split(allPlatforms, ","), name) {
			return fmt.Errorf("platform %q is none of %s", name, allPlatforms)
		}
		o.platforms = append(o.platforms, platform{goos, goarch})
	}
	if !o.tagged {
		return release(ctx, o)
	}
	if err := o.checkTag(ctx); err != nil {
		return err
	}
	if err := release(ctx, o); err != nil {
		return err
	}
	return o.publish()
}

// release builds everything aside and then moves it to where it is wanted.
func release(ctx context.Context, o options) error {
	if err := os.MkdirAll(filepath.Dir(o.output), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(o.output), ".release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	sums := map[string]string{}
	for _, p := range o.platforms {
		fmt.Fprintf(os.Stderr, "building for %s\n", p)
		files, err := o.platform(ctx, work, p)
		if err != nil {
			return fmt.Errorf("building for %s: %w", p, err)
		}
		for _, name := range files {
			if sums[name], err = checksum(filepath.Join(work, name)); err != nil {
				return err
			}
		}
	}
	chart, err := o.chart(work)
	if err != nil {
		return fmt.Errorf("packing the chart: %w", err)
	}
	if sums[chart], err = checksum(filepath.Join(work, chart)); err != nil {
		return err
	}
	if err := writeChecksums(filepath.Join(work, "checksums.txt"), sums); err != nil {
		return err
	}
	if err := o.manifest(work, sums); err != nil {
		return fmt.Errorf("writing the manifest: %w", err)
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(o.output); err != nil {
		return err
	}
	return os.Rename(work, o.output)
}

// platform builds what is for one platform into dir and returns the names of the
// files that users download.
func (o options) platform(ctx context.Context, dir string, p platform) ([]string, error) {
	binary := filepath.Join(dir, p.program())
	if err := o.compile(ctx, binary, p); err != nil {
		return nil, err
	}
	defer os.Remove(binary)
	members, err := o.members(binary, p)
	if err != nil {
		return nil, err
	}
	archive := p.archive()
	if err := pack(filepath.Join(dir, archive), members); err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	components := p.base() + ".cdx.json"
	if err := writeComponents(filepath.Join(dir, components), binary, o.version, p); err != nil {
		return nil, fmt.Errorf("listing what is compiled in: %w", err)
	}
	return []string{archive, components}, nil
}

// members are the files of p's archive.
func (o options) members(binary string, p platform) ([]member, error) {
	all := []member{
		{name: p.program(), path: binary, mode: 0o755},
		{name: "LICENSE", path: filepath.Join(o.root, "LICENSE"), mode: 0o644},
	}
	if p.os == "windows" {
		return all, nil // there is no man(1)
	}
	pages, err := filepath.Glob(filepath.Join(o.root, "docs", "man", "*.1"))
	if err != nil || len(pages) == 0 {
		return nil, errors.Join(errors.New("there are no man pages in docs/man"), err)
	}
	for _, page := range pages {
		// As a directory of $MANPATH wants them.
		all = append(all, member{name: "man/man1/" + filepath.Base(page), path: page, mode: 0o644})
	}
	return all, nil
}

// writeChecksums writes what sha256sum --check reads.
func writeChecksums(path string, sums map[string]string) error {
	var text strings.Builder
	for _, name := range sortedKeys(sums) {
		fmt.Fprintf(&text, "%s  %s\n", sums[name], name)
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}

func checksum(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:]), nil
}
