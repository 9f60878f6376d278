//go:build e2e

package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

var updateTranscript = flag.Bool("update-transcript", false, "rewrite testdata/first-hour.txt")

// devImage is the gateway's image in the test cluster, where no registry is.
const devImage = "ghcr.io/kubectl-gateway/kube-gateway:dev"

// user is somebody with kubectl, krew, a kubeconfig, and nothing else.
type user struct {
	t          *testing.T
	home       string
	env        []string
	replace    []volatilePart
	transcript strings.Builder
}

// volatilePart is what differs from one hour to the next.
type volatilePart struct {
	pattern *regexp.Regexp
	with    string
}

// newUser returns a user whose kubeconfig has a namespace as the current one.
func newUser(t *testing.T, ns string) *user {
	t.Helper()
	u := &user{t: t, home: t.TempDir()}
	bin := filepath.Join(u.home, "bin")
	kubectl := must.Get(exec.LookPath("kubectl"))(t)
	must.Do(t, errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(filepath.Join(u.home, ".kube"), 0o700), os.Symlink(kubectl, filepath.Join(bin, "kubectl"))))
	build(t, "-o", filepath.Join(bin, "kubectl-krew"), "sigs.k8s.io/krew/cmd/krew")
	config := must.Get(os.ReadFile(os.Getenv("KUBECONFIG")))(t)
	must.Do(t, os.WriteFile(filepath.Join(u.home, ".kube", "config"), config, 0o600))
	root := filepath.Join(u.home, ".krew")
	u.env = []string{"HOME=" + u.home, "KREW_ROOT=" + root, "KREW_NO_UPGRADE_CHECK=1", "TERM=dumb", "TZ=UTC", "LANG=C.UTF-8",
		"PATH=" + strings.Join([]string{filepath.Join(root, "bin"), bin, "/usr/bin", "/bin"}, ":")}
	u.silently("kubectl", "config", "set-context", "--current", "--namespace="+ns)
	part := func(pattern, with string) {
		u.replace = append(u.replace, volatilePart{regexp.MustCompile(pattern), with})
	}
	// The canary is random behind its name, and what is encrypted is random throughout.
	part(`^( +[0-9a-f]{8}) +[0-9a-f ]+ \|kube-gateway-can\|`, "$1 BYTES |kube-gateway-can|")
	part(`^( +[0-9a-f]{8}) +17 03 03 [0-9a-f ]+ \|.*\|`, "$1 17 03 03 BYTES |TEXT|")
	part(`^( +[0-9a-f]{8}) +[0-9a-f ]+ \|.*\|`, "$1 BYTES |TEXT|")
	// Which record is shown, and so how long it is, depends on what is in time.
	part(`^ +000000[2-9]0 BYTES \|TEXT\|\n`, "")
	part(regexp.QuoteMeta(u.home), "~")
	part(regexp.QuoteMeta(ns), "NAMESPACE")
	part(regexp.QuoteMeta(devImage), "IMAGE")
	part(`https?://[0-9.]+:\d+`, "SERVER")
	part(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME")
	part(`\b\d\d:\d\d:\d\d(\.\d+)?\b`, "CLOCK")
	part(`\b\d{4}-\d\d-\d\d\b`, "DATE")
	part(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22,}\b`, "UID")
	part(`\b[0-9a-f]{16,}\b`, "FINGERPRINT")
	part(`\b10\.\d+\.\d+\.\d+(:\d+)?\b`, "ADDRESS")
	part(`\b(\d+(\.\d+)?(ms|µs|s|m|h))+\b`, "DURATION")
	part(`\b\d+d(\d+h)?\b`, "DAYS")
	// What is said of waiting depends on the machine.
	part(`^pod/\S+: draining its connections, for at most DURATION\n`, "")
	part(`\b\d+ ok, \d+ skipped\b`, "N ok, N skipped")
	part(`\b127\.\d+\.\d+\.\d+:\d+\b`, "LOCAL")
	part(`\b\d+ packets, 0 dropped\b`, "N packets, 0 dropped")
	part(`\bone of \d+ TLS records\b`, "one of N TLS records")
	part(`\b\d+(\.\d+)? ?([KMG]i?)?B\b`, "BYTES")
	return u
}

// build builds a program of the release's module.
func build(t *testing.T, args ...string) {
	t.Helper()
	if out := runCommand(t.Context(), t, "", "go", append([]string{"-C", "../../build/release", "build"}, args...)...); out.code != 0 {
		t.Fatalf("building %v: %s", args, out.stderr)
	}
}

// run runs a command of the user's, and returns what it printed.
func (u *user) run(name string, args ...string) output {
	u.t.Helper()
	path := filepath.Join(u.home, "bin", name)
	cmd := exec.CommandContext(u.t.Context(), path, args...)
	cmd.Env, cmd.Dir = u.env, u.home
	return outputOf(u.t, cmd)
}

// silently runs a command that must succeed and is no part of the transcript.
func (u *user) silently(name string, args ...string) string {
	u.t.Helper()
	out := u.run(name, args...)
	if out.code != 0 {
		u.t.Fatalf("%s %s: exit %d\n%s%s", name, strings.Join(args, " "), out.code, out.stdout, out.stderr)
	}
	return out.stdout
}

// does runs a command line, which must succeed and goes into the transcript.
func (u *user) does(what, command string) string {
	u.t.Helper()
	words := strings.Fields(command)
	out := u.run(words[0], words[1:]...)
	if out.code != 0 {
		u.t.Fatalf("%s: exit %d\n%s%s", command, out.code, out.stdout, out.stderr)
	}
	fmt.Fprintf(&u.transcript, "# %s\n$ %s\n%s%s\n", what, u.stable(command), u.stable(out.stdout), u.stable(out.stderr))
	return out.stdout
}

// spaces are the gaps between columns, whose width is that of what is in them.
var spaces = regexp.MustCompile(` {2,}`)

// stable returns text without what is volatile. Lines of pods and nodes that are
// worked on at the same time are in the order of their names.
func (u *user) stable(text string) string {
	lines := strings.SplitAfter(text, "\n")
	for i := range lines {
		for _, v := range u.replace {
			lines[i] = v.pattern.ReplaceAllString(lines[i], v.with)
		}
		indent := len(lines[i]) - len(strings.TrimLeft(lines[i], " "))
		lines[i] = lines[i][:indent] + spaces.ReplaceAllString(lines[i][indent:], "  ")
	}
	for i := 0; i < len(lines); i++ {
		end := i
		for end < len(lines) && (strings.HasPrefix(lines[end], "pod/") || strings.HasPrefix(lines[end], "testing image ")) {
			end++
		}
		slices.Sort(lines[i:end])
		i = max(i, end-1)
	}
	return strings.Join(lines, "")
}

// TestFirstHour is what somebody does who has heard of the plugin today. The
// documentation shows these commands, and testdata/first-hour.txt what they print.
//
// The user differs from the first of all users in two things. The cluster is shared
// with other tests, whose gateways a new authority would cut off: so this one is the
// second operator, who was given a copy of the authority's file, as the
// documentation describes, and for whom init-ca finds everything in place. And
// where no registry is, the image that a release names has to be named.
func TestFirstHour(t *testing.T) {
	ns := namespace(t)
	u := newUser(t, ns)
	startPods(t, ns, podSpec("client", node1), podSpec("server", node2), podSpec("later", node1))
	server := findPod(t, ns, "server")

	release := filepath.Join(u.home, "Downloads")
	made := runCommand(t.Context(), t, "", "go", "-C", "../../build/release", "run", ".", "--version=v0.1.0",
		"--platforms=linux/"+runtime.GOARCH, "--output="+release)
	if made.code != 0 {
		t.Fatalf("building the release: %s", made.stderr)
	}
	archives, err := filepath.Glob(filepath.Join(release, "*.tar.gz"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("archives of one platform: %v, %v", archives, err)
	}
	archive := filepath.Join(release, "kubectl-gateway.tar.gz")
	must.Do(t, os.Rename(archives[0], archive))
	u.does("Install the plugin.", "kubectl krew install --manifest="+filepath.Join(release, "plugins", "gateway.yaml")+" --archive="+archive)
	if out := u.silently("kubectl", "plugin", "list"); !strings.Contains(out, filepath.Join(u.home, ".krew", "bin", "kubectl-gateway")) {
		t.Errorf("kubectl knows another plugin: %s", out)
	}

	uid := kubectl(t, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	const file = "authority.pem"
	text := must.Get(os.ReadFile(filepath.Join(os.Getenv("XDG_DATA_HOME"), "kubectl-gateway", uid, file)))(t)
	dir := filepath.Join(u.home, ".local", "share", "kubectl-gateway", uid)
	must.Do(t, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, file), text, 0o600)))

	u.does("Will it work here?", "kubectl gateway check -o short --image="+devImage)
	u.does("The authority, once for each cluster.", "kubectl gateway init-ca")
	u.does("Encrypt what two pods say to each other.", "kubectl gateway enable pod/client pod/server --mode=strict --image="+devImage)
	talk := u.does("Let them talk.", "kubectl exec client -- /app talk "+server.addr(portEcho)+" hello")
	if !strings.Contains(talk, "hello") {
		t.Errorf("no echo: %s", talk)
	}
	client := findPod(t, ns, "client")
	client.traffic("the connection is counted", func(traffic api.Traffic) bool { return traffic.Outbound.Encrypted > 0 })
	u.does("How are the gateways?", "kubectl gateway status")
	if out := u.does("Who talks to whom?", "kubectl gateway status --edges"); !strings.Contains(out, "client") {
		t.Errorf("no edge of the client: %s", out)
	}
	if out := u.does("Is it encrypted? Look at the bytes.", "kubectl gateway verify pod/client pod/server"); !strings.Contains(out, "√ encrypted") || strings.Count(out, "readable as it must be") != 2 {
		t.Errorf("nothing is proven: %s", out)
	}
	eventually(t, "the connection and that of the canary are in the log", func() error {
		if out := u.silently("kubectl", "gateway", "tail", "pod/client", "--no-follow"); strings.Count(out, " encrypted ") < 2 {
			return errors.New(out)
		}
		return nil
	})
	u.does("What did the client do?", "kubectl gateway tail pod/client --no-follow")
	u.does("A pod that is to have a gateway whenever there is one.", "kubectl annotate pod later "+annotation+"=true")
	u.does("See to that, now and once.", "kubectl gateway watch --once -n "+ns+" --image="+devImage)
	u.does("New keys.", "kubectl gateway rotate pod/client pod/server")
	if out := u.silently("kubectl", "exec", "client", "--", "/app", "talk", server.addr(portEcho), "again"); !strings.Contains(out, "again") {
		t.Errorf("no echo after the rotation: %s", out)
	}
	u.does("Back to how it was.", "kubectl gateway disable pod/client pod/server --drain-timeout=1s")
	if out := u.silently("kubectl", "exec", "client", "--", "/app", "talk", server.addr(portEcho), "plainly"); !strings.Contains(out, "plainly") {
		t.Errorf("no echo without gateways: %s", out)
	}

	path := filepath.Join("testdata", "first-hour.txt")
	if *updateTranscript {
		must.Do(t, errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(u.transcript.String()), 0o644)))
	}
	want := must.Get(os.ReadFile(path))(t)
	if u.transcript.String() != string(want) {
		t.Errorf("the hour went otherwise than %s (rewrite it with -update-transcript and look at the difference):\n%s", path, u.transcript.String())
	}
}
