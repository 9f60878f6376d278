package authority

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func TestLoad(t *testing.T) {
	a, b := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	put := func(err error) {
		t.Helper()
		must.Do(t, err)
	}
	publish := func(c *fakecluster.Cluster, a *ca.Authority) {
		_, err := publishBundle(t.Context(), c, a, nil, true)
		put(err)
	}
	store := func(c *fakecluster.Cluster, a *ca.Authority) {
		_, err := (&secretStore{client: c}).publish(t.Context(), a, true)
		put(err)
	}
	unreachable := errors.New("timeout")
	for _, c := range []struct {
		name  string
		setUp func(c *fakecluster.Cluster, dir string)
		found *ca.Authority
		want  error
		hint  string
	}{
		{name: "nothing", setUp: func(*fakecluster.Cluster, string) {}, want: ErrNoAuthority, hint: "run 'kubectl gateway init-ca' first"},
		{name: "nothing, and no permission to see more", setUp: func(c *fakecluster.Cluster, _ string) {
			c.Forbid("get", "secrets")
			c.Forbid("get", "configmaps")
		}, want: ErrNoAuthority, hint: "run 'kubectl gateway init-ca' first"},
		{name: "another operator's", setUp: func(c *fakecluster.Cluster, _ string) { publish(c, a) }, want: ErrNoAuthority, hint: "copy of authority.pem"},
		{name: "this machine", setUp: func(c *fakecluster.Cluster, dir string) { put(CreateDir(dir, a)); publish(c, a) }, found: a},
		{name: "cluster", setUp: func(c *fakecluster.Cluster, _ string) { store(c, a); publish(c, a) }, found: a},
		{name: "this machine comes first", setUp: func(c *fakecluster.Cluster, dir string) {
			put(CreateDir(dir, a))
			publish(c, a)
			refuse(c, "get", "secrets", errors.New("asked for the Secret"))
		}, found: a},
		{name: "foreign on this machine", setUp: func(c *fakecluster.Cluster, dir string) { put(CreateDir(dir, a)); publish(c, b) }, want: ErrForeign, hint: "--force"},
		{name: "foreign in the cluster", setUp: func(c *fakecluster.Cluster, _ string) { store(c, a); publish(c, b) }, want: ErrForeign, hint: "--force"},
		{name: "not published", setUp: func(_ *fakecluster.Cluster, dir string) { put(CreateDir(dir, a)) }, want: ErrNoBundle, hint: "init-ca' again"},
		{name: "bundle unreadable", setUp: func(c *fakecluster.Cluster, dir string) {
			put(CreateDir(dir, a))
			c.Forbid("get", "configmaps")
		}, hint: "may get configmap"},
		{name: "damaged on this machine, good in the cluster", setUp: func(c *fakecluster.Cluster, dir string) {
			store(c, a)
			publish(c, a)
			put(os.WriteFile(Path(dir), []byte("x"), 0o600))
		}, want: ca.ErrDamaged, hint: "backup"},
		{name: "cluster out of reach", setUp: func(c *fakecluster.Cluster, _ string) { refuse(c, "get", "secrets", unreachable) }, want: unreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster, dir := newCluster(t, "uid-1"), t.TempDir()
			c.setUp(cluster, dir)
			got, err := Load(t.Context(), Location{Client: cluster, Dir: dir})
			if c.found != nil {
				if err != nil || !got.Equal(c.found) {
					t.Errorf("loaded %v, %v", got, err)
				}
				return
			}
			expect.Refusal(t, c.name, err, c.want, "", c.hint)
		})
	}
}

// Clusters do not share an authority by accident.
func TestLoadByCluster(t *testing.T) {
	t.Setenv(EnvDir, "")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	first, second := newCluster(t, "uid-1"), newCluster(t, "uid-2")
	result := must.Get(Init(t.Context(), InitOptions{Location: Location{Client: first}}))(t)
	if a, err := Load(t.Context(), Location{Client: first}); err != nil || !a.Equal(result.Authority) {
		t.Errorf("first: %v, %v", a, err)
	}
	if _, err := Load(t.Context(), Location{Client: second}); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("second: %v", err)
	}
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
	check(Location{Client: newCluster(t, "uid-1")}, filepath.Join(home, "kubectl-gateway", "uid-1"))
	// The other two do not need the cluster.
	t.Setenv(EnvDir, "/from/env")
	check(Location{}, "/from/env")
	check(Location{Dir: "/from/flag"}, "/from/flag")
}
