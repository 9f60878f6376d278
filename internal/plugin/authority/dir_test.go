package authority

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

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
		if got, err := DefaultDir(uid, env(map[string]string{"HOME": "/home/u", "LOCALAPPDATA": "/local"})); err == nil {
			t.Errorf("uid %q chose %q", uid, got)
		}
	}
}

func TestResolveDir(t *testing.T) {
	cluster := newCluster("uid-1")
	vars := map[string]string{"XDG_DATA_HOME": t.TempDir()}
	byDefault := filepath.Join(vars["XDG_DATA_HOME"], "kubectl-gateway", "uid-1")
	if got, err := ResolveDir(t.Context(), cluster, "", env(vars)); err != nil || got != byDefault {
		t.Errorf("%q, %v", got, err)
	}
	// The other two do not need the cluster.
	vars[EnvDir] = "/from/env"
	if got, err := ResolveDir(t.Context(), fake.NewClientset(), "", env(vars)); err != nil || got != "/from/env" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := ResolveDir(t.Context(), fake.NewClientset(), "/from/flag", env(vars)); err != nil || got != "/from/flag" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestParseTTL(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "90d": 90 * day, "8w": 56 * day, "10y": ca.DefaultTTL, "292y": 292 * 365 * day,
		"": 0, "0": 0, "0d": 0, "-1h": 0, "-1d": 0, "d": 0, "1.5d": 0, "10": 0, "293y": 0, "99999999999999999999d": 0, "ten years": 0,
	} {
		got, err := ca.ParseTTL(text)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
		if err != nil && api.Hint(err) == "" {
			t.Errorf("%q: %v has no hint", text, err)
		}
	}
}
