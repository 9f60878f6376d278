package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func writeBinary(t *testing.T, content string, modified time.Time) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app")
	if err := os.WriteFile(file, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, modified, modified); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestWriteIsRepeatable(t *testing.T) {
	var archives [2][]byte
	for i := range archives {
		// Another directory, another time: neither may show.
		binary := writeBinary(t, "\x7fELF", time.Unix(int64(1e9*(i+1)), 0))
		archive := filepath.Join(t.TempDir(), "image.tar")
		if err := Write(Options{Name: "localhost/app:1", Binary: binary}, archive); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(archive); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same binary gave two archives")
	}
}

func TestContent(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "image.tar")
	err := Write(Options{
		Name: "localhost/app:1", Binary: writeBinary(t, "content", time.Now()),
		Entrypoint: []string{"/app", "serve"}, User: "65532:65532", Architecture: "arm64",
	}, archive)
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Architecture != "arm64" || config.Config.User != "65532:65532" ||
		strings.Join(config.Config.Entrypoint, " ") != "/app serve" {
		t.Errorf("the configuration is %+v", config)
	}
	files := contents(t, image)
	if files["app"] != "-rwxr-xr-x content" || files["tmp/"] != "dtrwxrwxrwx " || len(files) != 2 {
		t.Errorf("the files are %q", files)
	}
}

func TestDefaults(t *testing.T) {
	image, tag, err := Build(Options{Name: "localhost/app:1", Binary: writeBinary(t, "", time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "amd64" || strings.Join(config.Config.Entrypoint, " ") != "/app" || tag.String() != "localhost/app:1" {
		t.Errorf("%s: the configuration is %+v", tag, config)
	}
}

func TestFailureLeavesNoArchive(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "image.tar")
	for _, options := range []Options{
		{Name: "Not a name", Binary: writeBinary(t, "", time.Now())},
		{Name: "localhost/app:1", Binary: filepath.Join(t.TempDir(), "missing")},
	} {
		if err := Write(options, archive); err == nil {
			t.Errorf("Write(%+v) succeeded", options)
		}
		if _, err := os.Stat(archive); !os.IsNotExist(err) {
			t.Errorf("Write(%+v) left an archive", options)
		}
	}
}

// contents returns mode and text of every file of an image.
func contents(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, layer := range layers {
		reader, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewReader(reader)
		for {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			if !header.ModTime.Equal(time.Unix(0, 0)) {
				t.Errorf("%s has the time %s, which another build would not have", header.Name, header.ModTime)
			}
			files[header.Name] = header.FileInfo().Mode().String() + " " + string(data)
		}
		reader.Close()
	}
	return files
}
