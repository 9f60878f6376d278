//go:build linux

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

func environment(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

func TestMaterialSurvivesSealing(t *testing.T) {
	m, err := MaterialFromEnv(environment(map[string]string{
		api.EnvConfig: "{}", api.EnvCert: "cert", api.EnvKey: "key", api.EnvCA: "ca",
	}))
	if err != nil {
		t.Fatal(err)
	}
	f, err := m.Seal()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 { // every worker reads it again
		got, err := ReadMaterial(f)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Key) != "key" || string(got.Cert) != "cert" || string(got.CA) != "ca" || string(got.Config) != "{}" {
			t.Errorf("read back %q %q %q %q", got.Config, got.Cert, got.Key, got.CA)
		}
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to sealed material: %v, want EPERM", err)
	}
}

func TestMissingMaterialIsNamed(t *testing.T) {
	_, err := MaterialFromEnv(environment(map[string]string{api.EnvConfig: "{}", api.EnvCert: "cert"}))
	if err == nil || !strings.Contains(err.Error(), api.EnvKey) || api.Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, api.Hint(err))
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	m := Material{Key: []byte("the-secret-key")}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, m); strings.Contains(text, "secret") || strings.Contains(text, fmt.Sprint([]byte("the"))[1:5]) {
			t.Errorf("%s prints %s", format, text)
		}
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString(`{"key": "the-secret-key"`)
	if _, err := ReadMaterial(f); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v", err)
	}
}

func TestWithoutMaterial(t *testing.T) {
	got := WithoutMaterial([]string{"PATH=/bin", api.EnvKey + "=k", api.EnvCert + "=a=b", "OTHER=" + api.EnvKey})
	if want := []string{"PATH=/bin", "OTHER=" + api.EnvKey}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
