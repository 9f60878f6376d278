// Package images builds container images of one static binary, without a
// container engine. The same binary always gives the same archive.
package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Options say what is in an image.
type Options struct {
	// Name is the reference of the image, a tag included.
	Name string
	// Binary is the file of a static executable. It becomes /<its base name>.
	Binary string
	// Entrypoint defaults to the binary alone.
	Entrypoint []string
	// User is the image's user, "" for root.
	User string
	// Architecture is GOARCH's word for it, "" for amd64.
	Architecture string
}

// Build returns the image of the options and its reference.
func Build(options Options) (v1.Image, name.Tag, error) {
	tag, err := name.NewTag(options.Name)
	if err != nil {
		return nil, tag, fmt.Errorf("naming the image: %w", err)
	}
	layer, err := layerOf(options.Binary)
	if err != nil {
		return nil, tag, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, tag, fmt.Errorf("adding the binary: %w", err)
	}
	config := &v1.ConfigFile{
		OS:           "linux",
		Architecture: options.Architecture,
		Created:      v1.Time{Time: epoch()},
		Config:       v1.Config{Entrypoint: options.Entrypoint, User: options.User},
	}
	if config.Architecture == "" {
		config.Architecture = "amd64"
	}
	if len(config.Config.Entrypoint) == 0 {
		config.Config.Entrypoint = []string{"/" + filepath.Base(options.Binary)}
	}
	previous, err := image.ConfigFile()
	if err != nil {
		return nil, tag, fmt.Errorf("describing the image: %w", err)
	}
	config.RootFS, config.History = previous.RootFS, previous.History
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, tag, fmt.Errorf("describing the image: %w", err)
	}
	return image, tag, nil
}

// Write builds an image and writes it as an archive that "ctr images import"
// and "docker load" understand.
func Write(options Options, archive string) error {
	image, tag, err := Build(options)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(archive, tag, image); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", archive, err), os.Remove(archive))
	}
	return nil
}

// epoch is the time of everything in an image, as builds must be repeatable.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// layerOf returns a layer with the binary and a /tmp for whom it may concern.
func layerOf(binary string) (v1.Layer, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("reading the binary: %w", err)
	}
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, entry := range []struct {
		header tar.Header
		data   []byte
	}{
		{tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil},
		{tar.Header{Typeflag: tar.TypeReg, Name: filepath.Base(binary), Mode: 0o755, Size: int64(len(data))}, data},
	} {
		entry.header.ModTime = epoch()
		if err := archive.WriteHeader(&entry.header); err != nil {
			return nil, fmt.Errorf("packing the binary: %w", err)
		}
		if _, err := archive.Write(entry.data); err != nil {
			return nil, fmt.Errorf("packing the binary: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("packing the binary: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	})
	if err != nil {
		return nil, fmt.Errorf("packing the binary: %w", err)
	}
	return layer, nil
}
