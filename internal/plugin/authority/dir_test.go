package authority

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func TestDefaultDir(t *testing.T) {
	abs := t.TempDir()
	for _, c := range []struct {
		goos string
		env  map[string]string
		want string
	}{
		{"linux", map[string]string{"HOME": "/home/u"}, "/home/u/.local/share/kubectl-gateway/uid-1"},
		{"linux", map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": abs}, abs + "/kubectl-gateway/uid-1"},
		{"linux", map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "relative"}, "/home/u/.local/share/kubectl-gateway/uid-1"},
		{"linux", map[string]string{}, ""},
		{"darwin", map[string]string{"HOME": "/Users/u"}, "/Users/u/Library/Application Support/kubectl-gateway/uid-1"},
		{"darwin", map[string]string{"HOME": "/Users/u", "XDG_DATA_HOME": abs}, abs + "/kubectl-gateway/uid-1"},
		{"windows", map[string]string{"LOCALAPPDATA": "/local", "USERPROFILE": "/u"}, "/local/kubectl-gateway/uid-1"},
		{"windows", map[string]string{"USERPROFILE": "/u"}, "/u/AppData/Local/kubectl-gateway/uid-1"},
		{"windows", map[string]string{}, ""},
	} {
		got, err := defaultDir(c.goos, "uid-1", env(c.env))
		if filepath.ToSlash(got) != filepath.ToSlash(c.want) || (err != nil) != (c.want == "") {
			t.Errorf("%s %v: %q, %v; want %q", c.goos, c.env, got, err, c.want)
		}
		if err != nil && !strings.Contains(api.Hint(err), "--dir") {
			t.Errorf("hint %q", api.Hint(err))
		}
	}
	for _, uid := range []string{"", "..", "../../etc", "a/b", `a\b`, "a b", strings.Repeat("a", 65)} {
		if got, err := defaultDir("linux", uid, env(map[string]string{"HOME": "/home/u"})); err == nil {
			t.Errorf("uid %q chose %q", uid, got)
		}
	}
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestLocation(t *testing.T) {
	home := t.TempDir()
	t.Setenv(EnvDir, "")
	t.Setenv("XDG_DATA_HOME", home)
	check := func(l Location, want string) {
		t.Helper()
		if files, err := l.files(t.Context()); err != nil || files.dir != want {
			t.Errorf("%+v, %v; want %q", files, err, want)
		}
	}
	check(Location{Client: newCluster("uid-1")}, filepath.Join(home, "kubectl-gateway", "uid-1"))
	// The other two do not need the cluster.
	t.Setenv(EnvDir, "/from/env")
	check(Location{}, "/from/env")
	check(Location{Dir: "/from/flag"}, "/from/flag")
}
