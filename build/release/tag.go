package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/krew/pkg/index"
	"sigs.k8s.io/yaml"
)

// indexFile is the manifest in the source tree: where krew looks for it when the
// repository is added as an index.
var indexFile = filepath.Join("plugins", "gateway.yaml")

// checkTag fails unless the source tree is the tag of the version and nothing else,
// and the changelog tells of the version. The index alone may differ: it comes after
// the release, as it holds the checksums.
func (o options) checkTag(ctx context.Context) error {
	if err := inChangelog(o.root, o.version); err != nil {
		return err
	}
	tag, err := git(ctx, o.root, "rev-parse", "--verify", "--quiet", "refs/tags/"+o.version+"^{commit}")
	if err != nil {
		return fmt.Errorf("there is no tag %s: make it with 'git tag %s'", o.version, o.version)
	}
	head, err := git(ctx, o.root, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	if head != tag {
		return fmt.Errorf("the source is not tag %s: check it out with 'git checkout %s'", o.version, o.version)
	}
	changes, err := git(ctx, o.root, "status", "--porcelain", "--", ":/", ":(top,exclude)"+filepath.ToSlash(indexFile))
	if err != nil {
		return err
	}
	if changes != "" {
		return fmt.Errorf("the source has changes that tag %s does not have:\n%s", o.version, changes)
	}
	return nil
}

// inChangelog fails if CHANGELOG.md has no heading for a version.
func inChangelog(root, version string) error {
	text, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	heading := regexp.MustCompile(`(?m)^## ` + regexp.QuoteMeta(version) + `( |$)`)
	if !heading.Match(text) {
		return fmt.Errorf("CHANGELOG.md has no heading '## %s'", version)
	}
	return nil
}

// publish puts the manifest into the source tree, whole or not at all.
func (o options) publish() error {
	text, err := os.ReadFile(filepath.Join(o.output, indexFile))
	if err != nil {
		return err
	}
	path := filepath.Join(o.root, indexFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// verify builds the tag that the index offers and compares the archives' checksums
// with the index's. It does not matter which commit is checked out.
func verify(ctx context.Context, root string) error {
	text, err := os.ReadFile(filepath.Join(root, indexFile))
	if err != nil {
		return err
	}
	var plugin index.Plugin
	if err := yaml.UnmarshalStrict(text, &plugin); err != nil {
		return fmt.Errorf("reading %s: %w", indexFile, err)
	}
	version := plugin.Spec.Version
	if !semver.MatchString(version) {
		return fmt.Errorf("%s is of version %q", indexFile, version)
	}
	if len(plugin.Spec.Platforms) == 0 {
		return fmt.Errorf("%s offers nothing", indexFile)
	}
	work, err := os.MkdirTemp("", "release-verify-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	o := options{root: filepath.Join(work, "source"), version: version, output: filepath.Join(work, "release")}
	// A clone, as a release is not made of what is in the tree by accident.
	if _, err := git(ctx, root, "clone", "--quiet", "--no-hardlinks", "--branch", version, "--", ".", o.root); err != nil {
		return fmt.Errorf("getting the tag: %w", err)
	}
	sums := map[string]string{}
	for _, p := range plugin.Spec.Platforms {
		var found platform
		for name := range strings.SplitSeq(allPlatforms, ",") {
			goos, goarch, _ := strings.Cut(name, "/")
			if candidate := (platform{goos, goarch}); strings.HasSuffix(p.URI, "/"+candidate.archive()) {
				found = candidate
			}
		}
		if found == (platform{}) {
			return fmt.Errorf("%s has the unknown archive %s", indexFile, p.URI)
		}
		o.platforms = append(o.platforms, found)
		sums[found.archive()] = p.Sha256
	}
	if err := release(ctx, o); err != nil {
		return err
	}
	var wrong []error
	for _, name := range sortedKeys(sums) {
		built, err := checksum(filepath.Join(o.output, name))
		if err != nil {
			return err
		}
		if built != sums[name] {
			wrong = append(wrong, fmt.Errorf("%s: %s offers %s, and the tag %s gives %s (with another Go toolchain? the release's is in its .cdx.json)",
				name, indexFile, sums[name], version, built))
		}
	}
	if len(wrong) == 0 {
		fmt.Printf("tag %s gives the %d archives that %s offers\n", version, len(sums), indexFile)
	}
	return errors.Join(wrong...)
}

// git runs git in a directory and returns what it printed.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}
