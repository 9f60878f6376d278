//go:build linux

package handoff

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
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
	f := must.Get(m.Seal())(t)
	defer f.Close()
	for range 2 { // every worker reads it again
		got := must.Get(ReadMaterial(f))(t)
		if string(got.Key) != "key" || string(got.Cert) != "cert" || string(got.CA) != "ca" || string(got.Config) != "{}" {
			t.Errorf("read back %q %q %q %q", got.Config, got.Cert, got.Key, got.CA)
		}
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to sealed material: %v, want EPERM", err)
	}
}

func TestMissingMaterialIsNamed(t *testing.T) {
	for missing, values := range map[string]map[string]string{
		api.EnvKey:    {api.EnvConfig: "{}", api.EnvCert: "cert"},
		api.EnvCA:     {api.EnvConfig: "{}", api.EnvCert: "cert", api.EnvKey: "key", api.EnvCA: ""},
		api.EnvCert:   {api.EnvConfig: "{}", api.EnvCA: "ca"},
		api.EnvConfig: {api.EnvCert: "cert", api.EnvKey: "key", api.EnvCA: "ca"},
	} {
		_, err := MaterialFromEnv(environment(values))
		if err == nil || !strings.Contains(err.Error(), missing) || api.Hint(err) == "" {
			t.Errorf("error %v, hint %q, want %s named", err, api.Hint(err), missing)
		}
	}
	if _, err := MaterialFromEnv(environment(nil)); err == nil {
		t.Error("nothing at all was enough")
	}
}

// A gateway whose certificate is delivered later is started with its
// configuration alone.
func TestMaterialWithoutCertificate(t *testing.T) {
	m, err := MaterialFromEnv(environment(map[string]string{api.EnvConfig: "{}"}))
	if err != nil || m.Certified() || string(m.Config) != "{}" {
		t.Errorf("got %v, %v", m, err)
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	m := Material{Key: []byte("the-secret-key")}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, m); strings.Contains(text, "secret") || strings.Contains(text, fmt.Sprint([]byte("the"))[1:5]) {
			t.Errorf("%s prints %s", format, text)
		}
	}
	f := must.Get(os.CreateTemp(t.TempDir(), ""))(t)
	defer f.Close()
	f.WriteString(`{"key": "the-secret-key"`)
	if _, err := ReadMaterial(f); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v", err)
	}
}
