// Command image packs a static program into one OCI archive, without a container
// engine:
//
//	image --name REF --output FILE [--version V] [--program NAME] [--user ID] [--arg ARG] amd64=PATH arm64=PATH
//
// The image holds the program and nothing else. Equal programs give an archive of
// equal bytes.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// mode lets every user execute a program, and only root read it: the kernel then keeps a process of another
// user from the start out of reach of others of that user (PR_SET_DUMPABLE(2const)).
const mode = 0o711

// epoch is the time of every file, so that builds can be repeated.
var epoch = time.Unix(0, 0).UTC()

func main() {
	name := flag.String("name", "", "reference of the image, for example ghcr.io/kubectl-gateway/kube-gateway:v1.2.3")
	output := flag.String("output", "", "file to write")
	var c content
	flag.StringVar(&c.version, "version", "", "version for the image's labels")
	flag.StringVar(&c.program, "program", "kube-gateway", "name of the program in the image's root directory")
	flag.StringVar(&c.user, "user", "", "user that it runs as (default: root)")
	flag.StringVar(&c.arg, "arg", "", "its argument when none is given")
	flag.Parse()
	if err := run(*name, *output, c, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// content is what an image of any platform has.
type content struct{ program, version, user, arg string }

func run(name, output string, c content, platforms []string) error {
	if name == "" || output == "" || len(platforms) == 0 {
		return errors.New("--name, --output and at least one ARCH=PATH are needed")
	}
	index := v1.ImageIndex(mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	for _, p := range platforms {
		arch, path, ok := strings.Cut(p, "=")
		if !ok {
			return fmt.Errorf("%q is not ARCH=PATH", p)
		}
		image, err := c.build(arch, path)
		if err != nil {
			return fmt.Errorf("building the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	archive, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// The first annotation is the standard's; containerd reads the second.
	err = archive.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": name[strings.LastIndex(name, ":")+1:],
		"io.containerd.image.name":          name,
	}))
	if err != nil {
		return err
	}
	return packDirectory(dir, output)
}

// build makes the image for one architecture.
func (c content) build(arch, path string) (v1.Image, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	header := &tar.Header{Name: c.program, Mode: mode, Size: int64(len(binary)), ModTime: epoch}
	if err := errors.Join(w.WriteHeader(header), write(w, binary), w.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, err
	}
	diffID, err := layer.DiffID()
	if err != nil {
		return nil, err
	}
	var args []string
	if c.arg != "" {
		args = []string{c.arg}
	}
	return mutate.ConfigFile(image, &v1.ConfigFile{
		Architecture: arch,
		OS:           "linux",
		Created:      v1.Time{Time: epoch},
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		Config: v1.Config{
			Entrypoint: []string{"/" + c.program},
			Cmd:        args,
			User:       c.user,
			Labels: map[string]string{
				"org.opencontainers.image.title":    c.program,
				"org.opencontainers.image.version":  c.version,
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.source":   "https://github.com/kubectl-gateway/kubectl-gateway",
			},
		},
	})
}

func write(w io.Writer, data []byte) error {
	_, err := w.Write(data)
	return err
}

// packDirectory writes the files below dir to a tar file, in lexical order.
func packDirectory(dir, output string) error {
	f, err := os.Create(output)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: filepath.ToSlash(relative), Mode: 0o644, Size: int64(len(data)), ModTime: epoch}
		return errors.Join(w.WriteHeader(header), write(w, data))
	})
	return errors.Join(err, w.Close(), f.Close())
}
