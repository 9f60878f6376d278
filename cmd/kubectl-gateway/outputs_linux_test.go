package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pty"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
)

// outputCase is a command whose whole output is in a golden file, once for a terminal
// and once for none.
type outputCase struct {
	name, args string
	// on returns the flags with which the command finds its cluster, and an
	// environment; dir is the command's own.
	on func(t *testing.T, dir string) (flags, env []string)
	// until is what an endless command says before Ctrl-C ends it.
	until string
	code  int
}

// inWorld is a world that change has changed.
func inWorld(change func(*world)) func(*testing.T, string) (flags, env []string) {
	return func(t *testing.T, _ string) ([]string, []string) {
		w := newWorld(t)
		w.answers["a"], w.answers["d"] = readyStatus("a"), readyStatus("d")
		if change != nil {
			change(w)
		}
		return w.flags, []string{authority.EnvDir + "=" + w.authority}
	}
}

// withFile is a world in which there is a file of the user's.
func withFile(text string) func(*testing.T, string) (flags, env []string) {
	return func(t *testing.T, dir string) ([]string, []string) {
		must.Do(t, os.WriteFile(filepath.Join(dir, "template"), []byte(text), 0o600))
		return inWorld(nil)(t, dir)
	}
}

func onServer(server func(t *testing.T) *apiServer) func(*testing.T, string) (flags, env []string) {
	return func(t *testing.T, _ string) ([]string, []string) { return server(t).kubeconfig(t), nil }
}

// rotating is a cluster of gateways web and db whose certificates can be renewed.
func rotating(dead string) func(*testing.T, string) (flags, env []string) {
	return func(t *testing.T, _ string) ([]string, []string) {
		c := newRotatingCluster(t, "web", "db")
		c.dead = dead
		return c.flags, []string{authority.EnvDir + "=" + c.dir}
	}
}

func outputCases() []outputCase {
	nothing := func(*testing.T, string) ([]string, []string) { return nil, nil }
	return []outputCase{
		{name: "init-ca", args: "init-ca --dir=DIR/new", on: inWorld(func(w *world) { w.forget(bundlePath) })},
		{name: "init-ca-again", args: "init-ca", on: inWorld(nil)},
		{name: "enable", args: "enable pod/a", on: inWorld(nil)},
		{name: "enable-all", args: "enable --all --yes --parallel=1", on: inWorld(nil)},
		{name: "enable-json", args: "enable pod/a pod/nobody -o json", on: inWorld(nil), code: 1},
		{name: "enable-refused", args: "enable pod/a", on: inWorld(waits("ErrImagePull", "not found")), code: 1},
		{name: "rotate", args: "rotate pod/web pod/db --parallel=1", on: rotating("")},
		{name: "rotate-partly", args: "rotate pod/web pod/db --parallel=1", on: rotating("db"), code: 1},
		{name: "rotate-ca-dry-run", args: "rotate --ca --dry-run", on: rotating("")},
		{name: "rotate-ca-blocked", args: "rotate --ca --yes --parallel=1", on: rotating("db"), code: 1},
		{name: "rotate-ca", args: "rotate --ca --yes --parallel=1", on: rotating("")},
		{name: "revoke", args: "revoke ns/shop/sa/web abcd --parallel=1", on: rotating("")},
		{name: "revoke-partly", args: "revoke abcd --parallel=1 -o name", on: rotating("db"), code: 1},
		{name: "revoke-dry-run", args: "revoke ab:cd --dry-run", on: rotating("")},
		{name: "refresh", args: "refresh pod/g pod/a --exclude-cidr=10.0.1.9 --parallel=1", on: inWorld(covering), code: 1},
		{name: "refresh-dry-run", args: "refresh pod/g --dry-run=client -o json", on: inWorld(covering)},
		{name: "upgrade", args: "upgrade pod/g pod/a --cert-ttl=12h --parallel=1", on: inWorld(upgradable), code: 1},
		{name: "upgrade-again", args: "upgrade pod/g --image=gateway:v1", on: inWorld(upgradable)},
		{name: "upgrade-json", args: "upgrade pod/g -o json", on: inWorld(upgradable)},
		{name: "upgrade-dry-run", args: "upgrade pod/g --dry-run=server", on: inWorld(upgradable)},
		{name: "upgrade-failed", args: "upgrade pod/g", on: inWorld(func(w *world) {
			upgradable(w)
			waits("ErrImagePull", "not found")(w)
		}), code: 1},
		{name: "enable-replace", args: "enable pod/g --replace --image=gateway:v1 --on-failure=open", on: inWorld(upgradable)},
		{name: "watch-once", args: "watch pod/a --once", on: inWorld(nil)},
		{name: "watch-once-json", args: "watch pod/a --once -o json", on: inWorld(nil)},
		{name: "status", args: "status pod/a pod/g pod/d", on: inWorld(nil)},
		{name: "status-wide", args: "status -o wide", on: inWorld(nil)},
		{name: "status-json", args: "status pod/g pod/a -o json", on: inWorld(func(w *world) { delete(w.answers, "g") }), code: 1},
		{name: "status-jsonpath", args: `status -o jsonpath={range.items[*]}{.pod}{"\t"}{.status.traffic.outbound.encrypted}{"\n"}{end}`, on: inWorld(nil)},
		{name: "status-jsonpath-file", args: "status -o jsonpath-file=DIR/template", on: withFile("{.items[*].state}\n")},
		{name: "status-jsonpath-as-json", args: "status -o jsonpath-as-json={.items[*].pod}", on: inWorld(nil)},
		{name: "status-go-template", args: `status -o go-template={{range.items}}{{.pod}}={{.state}}{{"\n"}}{{end}}`, on: inWorld(nil)},
		{name: "status-go-template-file", args: "status -o go-template-file=DIR/template", on: withFile("{{len .items}} gateways\n")},
		{name: "status-columns", args: "status -o custom-columns=NAME:.pod,STATE:.state,IPS:.podIPs[*],STANDBY:.standby", on: inWorld(nil)},
		{name: "status-columns-no-headers", args: "status -o custom-columns=NAME:.pod,STATE:.state --no-headers", on: inWorld(nil)},
		{name: "status-columns-file", args: "status -o custom-columns-file=DIR/template", on: withFile("NAME STATE\n.pod .state\n")},
		{name: "status-name", args: "status pod/g pod/a -o name", on: inWorld(func(w *world) { delete(w.answers, "g") }), code: 1},
		{name: "status-no-headers", args: "status --no-headers", on: inWorld(nil)},
		{name: "status-sort-by", args: "status pod/g pod/d pod/a --sort-by=.pod", on: inWorld(nil)},
		{name: "status-unknown-format", args: "status -o xml", on: inWorld(nil), code: 1},
		{name: "enable-jsonpath", args: "enable pod/a -o jsonpath={.items[*].action}", on: inWorld(nil)},
		{name: "check-jsonpath", args: `check pod/g --image-test=false -o jsonpath={.checks[?(@.result=="error")].id}`, on: inWorld(nil), code: 1},
		{name: "watch-once-go-template", args: "watch pod/a --once -o go-template={{.pod}}:{{.action}}", on: inWorld(nil)},
		{name: "version-verbose", args: "version -v=6", on: inWorld(nil)},
		{name: "version-more-verbose", args: "version -v=8", on: inWorld(func(w *world) {
			w.on = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("Content-Type", "application/json")
				return false
			}
		})},
		{name: "status-none", args: "status -n nowhere", on: inWorld(nil)},
		{name: "check", args: "check pod/g --image-test=false", on: inWorld(nil), code: 1},
		{name: "check-short", args: "check pod/g --image-test=false -o short", on: inWorld(nil), code: 1},
		{name: "packets", args: "packets pod/web -w DIR/web.pcapng", on: onServer(func(t *testing.T) *apiServer { return packetsServer(shortRecording(t)) })},
		{name: "metrics", args: "metrics pod/web", on: onServer(metricsServer)},
		{name: "tail", args: "tail --no-follow", on: onServer(func(*testing.T) *apiServer { return tailServer() })},
		{name: "tail-json", args: "tail -A --no-follow -o json --max-log-requests=1", on: onServer(func(*testing.T) *apiServer { return tailServer() }), code: 1},
		{name: "tail-jsonpath", args: "tail --no-follow -o jsonpath={.pod}:{.destination}", on: onServer(func(*testing.T) *apiServer { return tailServer() })},
		{name: "tail-waits", args: "tail -n void", on: onServer(func(*testing.T) *apiServer { return tailServer() }), until: "adds one"},
		{name: "mode", args: "mode pod/g strict", on: inWorld(answering)},
		{name: "mode-refused", args: "mode pod/g pod/d strict --parallel=1", on: inWorld(answering), code: 1},
		{name: "allow", args: "allow pod/g --everyone", on: inWorld(answering)},
		{name: "log", args: "log pod/g refused --limit=64Mi", on: inWorld(covering)},
		{name: "support-bundle", args: "support-bundle pod/g -o DIR/support.tar.gz", on: inWorld(answering)},
		{name: "disable", args: "disable pod/g --dry-run=client", on: inWorld(nil)},
		{name: "version", args: "version", on: inWorld(nil)},
		{name: "version-json", args: "version -o json", on: inWorld(nil)},
		{name: "completion-install", args: "completion --install --dir DIR", on: nothing},
		{name: "admission-install", args: "admission install --dry-run=client", on: inWorld(servingPolicies)},
		{name: "admission-install-yaml", args: "admission install --dry-run=client -o yaml --limits=memory=256Mi", on: inWorld(servingPolicies)},
		{name: "admission-diff", args: "admission diff --mode=permissive", on: inWorld(servingPolicies), code: 1},
		{name: "admission-show", args: "admission show", on: inWorld(servingPolicies), code: 1},
		{name: "admission-not-served", args: "admission install", on: inWorld(notServingPolicies), code: 1},
		{name: "help", args: "--help", on: nothing},
	}
}

// covering has g capture what the cluster had before a node joined.
func covering(w *world) {
	fleet := new(fakegateway.Fleet)
	w.fleet = fleet
	fleet.Set("g", api.Status{Capture: api.Capture{Coverage: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}}})
}

// servingPolicies has the server know policies that change objects.
func servingPolicies(w *world) {
	w.objects["/apis/admissionregistration.k8s.io/v1"] = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"admissionregistration.k8s.io/v1",
		"resources":[{"name":"mutatingadmissionpolicies","kind":"MutatingAdmissionPolicy","verbs":["get"]}]}`
	w.refuses(http.MethodGet, "/kube-gateway", http.StatusNotFound, metav1.StatusReasonNotFound, "not found")
}

// notServingPolicies is a server from before them.
func notServingPolicies(w *world) {
	w.objects["/apis/admissionregistration.k8s.io/v1"] = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"admissionregistration.k8s.io/v1",
		"resources":[{"name":"validatingadmissionpolicies","kind":"ValidatingAdmissionPolicy","verbs":["get"]}]}`
}

// answering has every gateway answer with the status of g.
func answering(w *world) {
	w.gateway = func(string, []string) (string, string, int) { return readyStatus("g"), "", 0 }
}

// changeable is what differs from run to run, besides volatile.
var changeable = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`^I\d{4} \S+ +\d+ (\w+\.go):\d+\]`), "IDATE CLOCK PID $1:LINE]"},
	{regexp.MustCompile(`\bmilliseconds=\d+`), "milliseconds=N"},
	{regexp.MustCompile(`\w{3}, \d\d \w{3} \d{4} \S+ GMT`), "TIME"},
	{regexp.MustCompile(`\d{8}T\d{6}\.\d+Z`), "TIME"},
	{regexp.MustCompile(`(^|[^0-9T])\d\d:\d\d:\d\d\b`), "${1}CLOCK"},
	{regexp.MustCompile(`\b\d+\.\d+s\b`), "SECONDS"},
	{regexp.MustCompile(`"(seconds)": ?[0-9.]+`), `"$1": N`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z`), "TIME"},
	{regexp.MustCompile(`\bgo1\.\d+(\.\d+)?\b`), "GOVERSION"},
	{regexp.MustCompile(`\b(linux)/(amd64|arm64)\b`), "PLATFORM"},
	{regexp.MustCompile(`\b[0-9a-f]{40,}\b`), "HASH"},
	{regexp.MustCompile(regexp.QuoteMeta(version)), "VERSION"},
}

func stable(text string, dirs ...string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		for _, dir := range dirs {
			if dir != "" {
				lines[i] = strings.ReplaceAll(lines[i], dir, "DIR")
			}
		}
		for _, c := range changeable {
			lines[i] = c.pattern.ReplaceAllString(lines[i], c.with)
		}
		for _, v := range volatile {
			lines[i] = v.pattern.ReplaceAllString(lines[i], v.with)
		}
	}
	return strings.Join(lines, "\n")
}

// TestOutputs compares all that commands print, on a terminal and off. The cluster is
// a fake, the plugin a program of its own, and the terminal a real one.
func TestOutputs(t *testing.T) {
	for _, c := range outputCases() {
		for name, terminal := range map[string]bool{c.name: false, c.name + "-terminal": true} {
			t.Run(name, func(t *testing.T) {
				// The authority of a rotation is found by this process's environment.
				if !strings.HasPrefix(c.name, "rotate") && !strings.HasPrefix(c.name, "revoke") {
					t.Parallel()
				}
				golden.Check(t, filepath.Join("outputs", name+".txt"), c.run(t, terminal))
			})
		}
	}
}

// TestOutputsOfEveryCommand finds a golden output of each command, on a terminal and
// off: those of verify are of its report.
func TestOutputsOfEveryCommand(t *testing.T) {
	have := map[string]bool{"verify": true}
	for _, c := range outputCases() {
		have[strings.Fields(c.args)[0]] = true
	}
	out := runPlugin(t, "--help")
	_, list, _ := strings.Cut(out.stdout, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	if list == "" {
		t.Fatal(out.stdout)
	}
	for line := range strings.Lines(list) {
		if name := strings.Fields(line)[0]; name != "help" && !have[name] {
			t.Errorf("%s has no golden output", name)
		}
	}
}

func (c *outputCase) run(t *testing.T, terminal bool) string {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	flags, env := c.on(t, dir)
	args := append(strings.Fields(strings.ReplaceAll(c.args, "DIR", dir)), flags...)
	cmd, stdout, stderr := plugin(ctx, t, args...)
	cmd.Env = append(cmd.Env, append(env, "TZ=UTC", "LANG=C.UTF-8", "TERM=xterm", "SHELL=/bin/bash")...)
	if terminal {
		text, code := c.onTerminal(t, cmd)
		return fmt.Sprintf("$ kubectl gateway %s\n%s[exit code %d]\n", c.args, stable(text, dir), code)
	}
	if c.until != "" {
		var once sync.Once
		cmd.Stderr = &ending{text: c.until, end: func() { once.Do(func() { _ = cmd.Process.Signal(syscall.SIGINT) }) }}
	}
	_ = cmd.Run()
	code := cmd.ProcessState.ExitCode()
	if e, ok := cmd.Stderr.(*ending); ok {
		stderr.WriteString(e.got.String())
	}
	if code != c.code && c.until == "" {
		t.Errorf("exit code %d", code)
	}
	if strings.HasSuffix(c.name, "json") && !c.jsonLines(stdout.Bytes()) {
		t.Errorf("no JSON: %s", stdout)
	}
	return fmt.Sprintf("$ kubectl gateway %s\n[output]\n%s[errors]\n%s[exit code %d]\n", c.args, stable(stdout.String(), dir), stable(stderr.String(), dir), code)
}

// jsonLines reports whether text is nothing but JSON.
func (c *outputCase) jsonLines(text []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		var value any
		if err := decoder.Decode(&value); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// onTerminal runs cmd with all of its streams on a new terminal.
func (c *outputCase) onTerminal(t *testing.T, cmd *exec.Cmd) (text string, code int) {
	user, program := pty.Open(t)
	must.Do(t, unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 200}))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	var said bytes.Buffer
	var reading errgroup.Group
	reading.Go(func() error {
		buffer := make([]byte, 4096)
		interrupted := false
		for {
			n, err := user.Read(buffer)
			said.Write(buffer[:n])
			if err != nil {
				return nil // the last of the program's ends is closed
			}
			if c.until != "" && !interrupted && strings.Contains(said.String(), c.until) {
				interrupted = true
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					return err
				}
			}
		}
	})
	must.Do(t, cmd.Start())
	_ = program.Close()
	_ = cmd.Wait()
	if err := reading.Wait(); err != nil {
		t.Error(err)
	}
	if code = cmd.ProcessState.ExitCode(); code != c.code && c.until == "" {
		t.Errorf("on a terminal: exit code %d", code)
	}
	// Escapes are shown, so that the files are text.
	return strings.NewReplacer("\r\n", "\n", "\x1b", "␛").Replace(said.String()), code
}
