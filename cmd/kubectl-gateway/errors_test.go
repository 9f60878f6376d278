package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// envMain makes the test's own program the plugin, so that nothing that a user
// would see on the error stream escapes, whoever writes it.
const envMain = "KUBECTL_GATEWAY_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// ended is how a run of the plugin ended.
type ended struct {
	stdout, stderr string
	code           int
}

// plugin returns a run of the plugin as a program of its own, for a user with an
// empty home.
func plugin(ctx context.Context, t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = []string{envMain + "=1", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return cmd, &stdout, &stderr
}

func runPlugin(t *testing.T, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd, stdout, stderr := plugin(ctx, t, args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v, %v\n%s%s", args, err, ctx.Err(), stdout, stderr)
	}
	return ended{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Lines that a user may see when something fails.
var (
	lineOfError   = regexp.MustCompile(`^(pod/\S+( -n \S+)?: )?error: \S.*$`)
	lineOfHint    = regexp.MustCompile(`^hint: \S.*$`)
	lineOfWarning = regexp.MustCompile(`^(pod/\S+( -n \S+)?: )?warning: \S.*$`)
	// What Go's libraries and client-go say to each other is nothing for a user.
	lineOfLibrary = regexp.MustCompile(`goroutine |panic:|context (canceled|deadline exceeded)|invalid character|json: |unmarshal|serializer |` +
		`dial tcp|\bEOF\b|%!|<nil>|0xc0|(Get|Post|Patch|Put|Delete|Head) "http|unable to parse|\(get pods\)|: unknown$`)
)

// checkShape checks that stderr is nothing but errors and warnings, each a line, and
// that each error has its hint below, unless that has been given already.
func checkShape(t *testing.T, stderr string) {
	t.Helper()
	if stderr == "" {
		t.Error("nothing is said")
		return
	}
	if strings.ContainsFunc(strings.ReplaceAll(stderr, "\n", ""), func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not printable: %q", stderr)
	}
	text, whole := strings.CutSuffix(stderr, "\n")
	if !whole {
		t.Errorf("the last line does not end: %q", stderr)
	}
	said, hints, open := 0, map[string]bool{}, ""
	for i, line := range strings.Split(text, "\n") {
		switch {
		case lineOfError.MatchString(line):
			said, open = said+1, line
			checkWords(t, line)
		case lineOfHint.MatchString(line):
			if said == 0 {
				t.Errorf("a hint before the error: %s", line)
			}
			if hints[line] {
				t.Errorf("it is said twice: %s", line)
			}
			hints[line], open = true, ""
		case lineOfWarning.MatchString(line):
		case line == "" && i == 0:
			// Between a table on the other stream and what is to say about it.
		default:
			t.Errorf("neither an error nor a hint: %q", line)
		}
	}
	if said == 0 || len(hints) == 0 || open != "" && len(hints) == 0 {
		t.Errorf("%d errors and %d hints", said, len(hints))
	}
	// A hint may be that of several errors, but the last of them has it below.
	if open != "" && said > 1 && !strings.HasPrefix(open, "pod/") {
		t.Errorf("without a hint: %s", open)
	}
}

// checkWords looks at the words of an error: they are nobody's internals, and none
// is said twice.
func checkWords(t *testing.T, line string) {
	t.Helper()
	if words := lineOfLibrary.FindString(line); words != "" {
		t.Errorf("%q is said in %s", words, line)
	}
	parts := strings.Split(line, ": ")
	for i, part := range parts {
		if slices.Contains(parts[:i], part) {
			t.Errorf("%q is said twice in %s", part, line)
		}
	}
}

// errorCase is one thing that can go wrong.
type errorCase struct {
	name string
	args string
	// world changes what the cluster is like.
	world func(*world)
	// config replaces the kubeconfig of the world.
	config string
	// file runs before the command, with the directory of the authority.
	file func(t *testing.T, dir string)
	// says and hints are words that the error and its hint must have.
	says, hints string
	// also are further lines that belong to what the command does.
	also string
}

// TestErrors walks through everything that can go wrong for a user.
func TestErrors(t *testing.T) {
	var all strings.Builder
	texts := make([]string, len(errorCases()))
	// Most of the time is spent waiting for servers in trouble, not computing.
	var group errgroup.Group
	group.SetLimit(12)
	for i, c := range errorCases() {
		group.Go(func() error {
			t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) { texts[i] = c.run(t) })
			return nil
		})
	}
	_ = group.Wait()
	for _, text := range texts {
		all.WriteString(text)
	}
	golden.Check(t, "errors.golden", all.String())
}

// volatile is what differs from run to run.
var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "SERVER"},
	{regexp.MustCompile(regexp.QuoteMeta(os.TempDir()) + `/[^\s"]+?/\d{3}\b`), "DIR"},
	{regexp.MustCompile(`kube-gateway-a-[a-z0-9]{10}`), "kube-gateway-a-RANDOM"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "FINGERPRINT"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d\b`), "DATE"},
	// Resolvers differ in what they say of names that there are not.
	{regexp.MustCompile(`the name (\S+) (is not known|cannot be looked up)`), "the name $1 is not known"},
	// A connection that is cut may look like one that was refused.
	{regexp.MustCompile(`connection reset by peer`), "the connection was cut"},
}

func (c *errorCase) run(t *testing.T) string {
	w := newWorld(t)
	if c.world != nil {
		c.world(w)
	}
	args := strings.Fields(strings.ReplaceAll(c.args, "DIR", w.dir))
	if config := c.config; config != "" {
		args = append(args, "--kubeconfig="+w.write(config))
	} else if !strings.Contains(c.args, "--kubeconfig=") {
		args = append(args, w.flags...)
	}
	if verb := args[0]; slices.Contains([]string{"enable", "rotate", "watch", "check"}, verb) && !strings.Contains(c.args, "--authority-dir") {
		args = append(args, "--authority-dir="+w.authority)
	}
	if c.file != nil {
		c.file(t, w.authority)
	}
	out := runPlugin(t, args...)
	if out.code != codeOf(args[0]) {
		t.Errorf("exit code %d\n%s", out.code, out.stdout)
	}
	stderr := out.stderr
	if c.also != "" {
		lines := strings.SplitAfter(stderr, "\n")
		also := regexp.MustCompile(c.also)
		stderr = strings.Join(slices.DeleteFunc(lines, func(line string) bool { return line != "" && also.MatchString(line) }), "")
	}
	checkShape(t, stderr)
	var said, hinted string
	for line := range strings.Lines(stderr) {
		if lineOfHint.MatchString(strings.TrimSuffix(line, "\n")) {
			hinted += line
		} else {
			said += line
		}
	}
	if !strings.Contains(said, c.says) || !strings.Contains(hinted, c.hints) {
		t.Errorf("%s: want %q, hint %q, but it is:\n%s", c.args, c.says, c.hints, out.stderr)
	}
	text := fmt.Sprintf("# %s\n$ kubectl gateway %s\n%s\n", c.name, c.args, out.stderr)
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		for _, v := range volatile {
			line = v.pattern.ReplaceAllString(line, v.with)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// codeOf is the exit code of a command that could not do its work. That of verify
// keeps 1 for plaintext that was seen, that of diff for a difference.
func codeOf(command string) int {
	if command == "verify" || command == "admission diff" {
		return 2
	}
	return 1
}

// TestErrorsOfEveryCommand runs each command of the tree where no cluster is.
func TestErrorsOfEveryCommand(t *testing.T) {
	words := map[string]string{
		"enable": "pod/a", "disable": "pod/a", "mode": "pod/a strict", "allow": "pod/a --everyone", "rotate": "pod/a", "revoke": "abcd", "refresh": "pod/a", "log": "pod/a none", "support-bundle": "-o -",
		"packets": "pod/a", "verify": "pod/a", "watch": "--once", "tail": "--no-follow", "check": "--wait=0s", "metrics": "pod/a",
	}
	// These ask no cluster: something else is wrong for them.
	local := map[string]string{"completion": "nonsense"}
	root := newRootCommand(genericiooptions.NewTestIOStreamsDiscard())
	walk(root, func(cmd *cobra.Command) {
		name := strings.TrimPrefix(cmd.CommandPath(), root.CommandPath()+" ")
		if !cmd.Runnable() || cmd.Hidden || name == "help" || cmd == root {
			return
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := strings.Fields(name)
			if word, ok := local[name]; ok {
				args = append(args, word)
			} else {
				args = append(args, strings.Fields(words[name])...)
				args = append(args, "--kubeconfig="+writeKubeconfig(t, "http://127.0.0.1:1"))
			}
			out := runPlugin(t, args...)
			if out.code != codeOf(name) {
				t.Errorf("exit code %d", out.code)
			}
			if name == "check" {
				// Its findings are the output.
				if !strings.Contains(out.stdout, "refused") {
					t.Errorf("it is not found: %s", out.stdout)
				}
				return
			}
			checkShape(t, out.stderr)
		})
		t.Run(name+" with an unknown flag", func(t *testing.T) {
			t.Parallel()
			out := runPlugin(t, append(strings.Fields(name), "--no-such-flag")...)
			if out.code != codeOf(name) || out.stdout != "" || !strings.Contains(out.stderr, "unknown flag: --no-such-flag") || !strings.Contains(out.stderr, name+" --help") {
				t.Errorf("exit %d, %s%s", out.code, out.stdout, out.stderr)
			}
			checkShape(t, out.stderr)
		})
	})
}

// TestErrorOfCtrlC interrupts a command that waits for its cluster.
func TestErrorOfCtrlC(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{}, 100)
	w.on = func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	}
	for _, args := range []string{"status", "status --edges", "status --watch", "enable pod/a", "tail", "tail --no-follow", "watch --once", "watch", "disable pod/a",
		"version", "init-ca", "mode pod/a strict", "allow pod/a --everyone", "rotate pod/a", "revoke abcd", "rotate --ca --yes --dry-run", "verify pod/a", "packets pod/a",
		"metrics pod/a", "check"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd, stdout, stderr := plugin(ctx, t, append(strings.Fields(args), w.flags...)...)
		must.Do(t, cmd.Start())
		select {
		case <-asked:
		case <-ctx.Done():
			t.Fatal("the cluster is not asked")
		}
		must.Do(t, cmd.Process.Signal(syscall.SIGINT))
		_ = cmd.Wait()
		cancel()
		if code := cmd.ProcessState.ExitCode(); code != 130 || stderr.String() != "interrupted\n" {
			t.Errorf("%s: exit %d\n%s%s", args, code, stdout, stderr)
		}
		for len(asked) > 0 {
			<-asked
		}
	}
}

// TestErrorsOfFlags gives every flag with a few words as its value another word.
func TestErrorsOfFlags(t *testing.T) {
	words := map[string]string{
		"mode": "enable pod/a --mode=lax", "on-failure": "enable pod/a --on-failure=ajar", "wire": "enable pod/a --wire=air",
		"delivery": "enable pod/a --delivery=pigeon", "existing": "enable pod/a --existing=forget", "dry-run": "enable pod/a --dry-run=maybe",
		"image-pull-policy": "enable pod/a --image-pull-policy=Sometimes", "output of enable": "enable pod/a -o xml",
		"output of status": "status -o xml", "by": "status --edges --by=moon", "output of tail": "tail -o xml", "output of mode": "mode pod/a strict -o xml",
		"output of allow": "allow pod/a --everyone -o xml", "output of rotate": "rotate pod/a -o xml", "output of revoke": "revoke abcd -o xml", "output of disable": "disable pod/a -o xml",
		"output of watch": "watch --once -o xml", "output of check": "check -o xml", "output of version": "version -o xml",
		"output of init-ca": "init-ca -o xml", "store": "init-ca --store=pocket", "mode to set": "mode pod/a lax", "log": "enable pod/a --log=all", "log to set": "log pod/a all", "log-limit": "enable pod/a --log-limit=much",
		"wire of check": "check --wire=air", "cert-ttl": "enable pod/a --cert-ttl=soon", "ttl": "init-ca --ttl=soon",
		"timeout": "enable pod/a --timeout=0s", "timeout's words": "enable pod/a --timeout=soon", "parallel": "rotate pod/a --parallel=0",
		"capture-cidr": "enable pod/a --capture-cidr=here", "exclude-port": "enable pod/a --exclude-port=99999", "node-ports": "enable pod/a --node-ports=9-1",
		"metrics-addr": "enable pod/a --metrics-addr=:http", "metrics-addr's port": "watch --metrics-addr=:18000",
		"allow": "enable pod/a --allow=*everyone*", "selector": "status -l ,,", "field selector": "status --field-selector nonsense", "since": "tail --since=-1s",
		"interval": "status --watch --interval=0s", "fail-if-expiring": "status --fail-if-expiring=soon", "drain": "disable pod/a --drain-timeout=-1s",
		"shell": "completion tcsh", "file": "enable -f /no/such/file", "from-cert": "init-ca --from-cert=/no/such --from-key=/no/such",
		"both or none": "init-ca --from-cert=/no/such", "pods and --all": "status pod/a --all", "two names": "watch a b -A", "trust domain": "init-ca --trust-domain=a_b!",
		"nothing": "enable", "nothing to allow": "allow pod/a", "too much": "version now", "no verb": "enabel pod/a", "no confirmation": "enable --all",
	}
	for _, name := range slices.Sorted(maps.Keys(words)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			out := runPlugin(t, append(strings.Fields(words[name]), w.flags...)...)
			if out.code != 1 || out.stdout != "" {
				t.Errorf("exit %d, %s", out.code, out.stdout)
			}
			checkShape(t, out.stderr)
			if strings.Count(out.stderr, "\n") != 2 {
				t.Errorf("more than an error and its hint:\n%s", out.stderr)
			}
			t.Logf("%s\n%s", words[name], out.stderr)
		})
	}
}
