// Package golden compares what tests get with files in testdata. "go test -update"
// writes those anew.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// update is a flag of every test that has golden files.
var update = flag.Bool("update", false, "write the golden files anew")

// Check compares got with the file called name.
func Check(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must.Do(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must.Do(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want := must.Get(os.ReadFile(path))(t)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it anew:\n%s", name, diff)
	}
}

// CheckYAML compares object, as YAML, with the file called name.
func CheckYAML(t *testing.T, name string, object any) {
	t.Helper()
	got := must.Get(yaml.Marshal(object))(t)
	Check(t, name, string(got))
}

// Updating reports whether golden files are being written anew.
func Updating() bool { return *update }
