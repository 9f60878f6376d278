package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"archive/tar"
	"errors"
	"io"
)

func buildArchive(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "kube-gateway")
	if err := os.WriteFile(binary, []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	output := filepath.Join(dir, "image.tar")
	if err := run("example.test/kube-gateway:v1", output, content{program: "kube-gateway", version: "v1", user: "65532", arg: "supervise"}, []string{"amd64=" + binary, "arm64=" + binary}); err != nil {
		t.Fatal(err)
	}
	return output
}

func TestEqualBinariesGiveEqualArchives(t *testing.T) {
	read := func(content string) []byte {
		data, err := os.ReadFile(buildArchive(t, content))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if !bytes.Equal(read("same"), read("same")) {
		t.Error("two builds of the same binary differ")
	}
	if bytes.Equal(read("same"), read("other")) {
		t.Error("two builds of different binaries are equal")
	}
}

func TestImageHoldsOnlyTheBinary(t *testing.T) {
	dir := unpack(t, buildArchive(t, "the binary"))
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(root); err != nil {
		t.Fatalf("the archive is not a valid image: %v", err)
	}
	outer, err := root.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := outer.Manifests[0].Annotations["io.containerd.image.name"]; got != "example.test/kube-gateway:v1" {
		t.Errorf("image name is %q", got)
	}
	index, err := root.ImageIndex(outer.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var architectures []string
	for _, m := range manifest.Manifests {
		architectures = append(architectures, m.Platform.Architecture)
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image)
	}
	if len(architectures) != 2 || architectures[0] != "amd64" || architectures[1] != "arm64" {
		t.Errorf("architectures are %v", architectures)
	}
}

func checkImage(t *testing.T, image v1.Image) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, error %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	r := tar.NewReader(content)
	header, err := r.Next()
	if err != nil || header.Name != "kube-gateway" || header.Mode != 0o711 {
		t.Errorf("first file is %+v, error %v", header, err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("there is more than one file (error %v)", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; !slices.Equal(c.Entrypoint, []string{"/kube-gateway"}) || !slices.Equal(c.Cmd, []string{"supervise"}) || c.User != "65532" {
		t.Errorf("it runs %q %q as %q", c.Entrypoint, c.Cmd, c.User)
	}
}

func unpack(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(header.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
