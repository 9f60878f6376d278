//go:build linux

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRequiredVersion(t *testing.T) {
	const gomod = "module x\n\nrequire k8s.io/one v1.2.3\nrequire (\n\tk8s.io/kubernetes v1.37.2\n\tk8s.io/api v0.37.2 // indirect\n)\nreplace k8s.io/two => k8s.io/two v2.0.0\n"
	for module, want := range map[string]string{"k8s.io/one": "v1.2.3", "k8s.io/kubernetes": "v1.37.2", "k8s.io/api": "v0.37.2", "k8s.io/two": ""} {
		got, err := requiredVersion(gomod, module)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", module, got, err, want)
		}
	}
}

// A changed source gives another name in the cache, an unchanged one the same.
func TestCacheKey(t *testing.T) {
	sources := t.TempDir()
	if err := os.Mkdir(filepath.Join(sources, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sources, "go.mod"), []byte("module x\n\ngo "+goVersion(t)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &builder{sources: sources}
	key := func(p program, source string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(sources, "app", "main.go"), []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		key, err := b.key(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	app := program{Name: "app", Dir: ".", Package: "./app"}
	other := program{Name: "app", Dir: ".", Package: "./app", Stamp: "main.version"}
	first := key(app, "package main")
	if again := key(app, "package main"); again != first {
		t.Errorf("the same sources gave %s and %s", first, again)
	}
	if changed := key(app, "package main // changed"); changed == first {
		t.Error("a change of the sources went unnoticed")
	}
	if changed := key(other, "package main"); changed == first {
		t.Error("a change of the build went unnoticed")
	}
}

// goVersion returns the version of Go that go.mod asks for.
func goVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var gomod struct{ Go string }
	if err := json.Unmarshal(out, &gomod); err != nil || gomod.Go == "" {
		t.Fatalf("%v in %s", err, out)
	}
	return gomod.Go
}

// TestEnvironment: the cluster's programs are built by the Go of go.mod, also on machines
// that have another.
func TestEnvironment(t *testing.T) {
	t.Setenv("GOTOOLCHAIN", "local")
	env, err := (&builder{sources: "."}).environment()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "env", "GOVERSION")
	cmd.Env = env
	out, err := cmd.Output()
	if want := "go" + goVersion(t) + "\n"; err != nil || string(out) != want {
		t.Errorf("go env says %q, want %q (%v)", out, want, err)
	}
}

func TestBuildWatcher(t *testing.T) {
	w := &buildWatcher{}
	w.read(strings.NewReader("go: downloading k8s.io/api v0.37.2\nk8s.io/api/core/v1\nfmt\n# x\nx/main.go:3:1: syntax error\n" +
		strings.Repeat("long", 100_000) + "\n"))
	if got := w.String(); got != "1 modules downloaded, 2 packages compiled" {
		t.Errorf("String() = %q", got)
	}
	if got := strings.Join(w.other, "|"); got != "# x|x/main.go:3:1: syntax error" {
		t.Errorf("errors are %q", got)
	}
}

func TestTail(t *testing.T) {
	for _, test := range []struct {
		text, want string
		n          int
	}{
		{"a\nb\nc\n", "b\nc", 2},
		{"a\nb", "a\nb", 5},
		{"", "", 3},
	} {
		if got := tail(test.text, test.n); got != test.want {
			t.Errorf("tail(%q, %d) = %q", test.text, test.n, got)
		}
	}
}
