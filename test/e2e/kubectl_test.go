//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// patience bounds every wait for the cluster. It is no expectation: each wait
// ends with its condition.
const patience = 2 * time.Minute

// output is how a command ended.
type output struct {
	stdout, stderr string
	code           int
}

// runCommand runs a command to its end and returns what it printed.
func runCommand(ctx context.Context, t *testing.T, stdin string, name string, args ...string) output {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return outputOf(t, cmd)
}

// outputOf runs a command to its end and returns what it printed.
func outputOf(t *testing.T, cmd *exec.Cmd) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	return output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// kubectl runs kubectl, which must succeed, and returns its standard output.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out := runCommand(t.Context(), t, "", "kubectl", args...)
	if out.code != 0 {
		t.Fatalf("kubectl %s: exit %d\n%s%s", strings.Join(args, " "), out.code, out.stdout, out.stderr)
	}
	return out.stdout
}

// gateway runs "kubectl gateway", which must succeed.
func gateway(t *testing.T, args ...string) output {
	t.Helper()
	out := tryGateway(t, args...)
	if out.code != 0 {
		t.Fatalf("kubectl gateway %s: exit %d\n%s%s", strings.Join(args, " "), out.code, out.stdout, out.stderr)
	}
	return out
}

// tryGateway runs "kubectl gateway", which may fail. It starts the plugin without kubectl,
// whose start costs several times as much processor time.
func tryGateway(t *testing.T, args ...string) output {
	t.Helper()
	return runCommand(t.Context(), t, "", "kubectl-gateway", args...)
}

// parse reads what a command has printed in JSON.
func parse[T any](t *testing.T, text string) (to T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &to); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return to
}

// clusterConfig leads to the cluster's API server.
func clusterConfig(t *testing.T) *rest.Config {
	t.Helper()
	config := must.Get(clientcmd.BuildConfigFromFlags("", os.Getenv(clientcmd.RecommendedConfigPathEnvVar)))(t)
	config.QPS = -1 // no bound
	config.WarningHandler = rest.NoWarnings{}
	return config
}

// client is for what tests do thousands of times: it takes a hundredth of the processor time
// of a kubectl. Those of one test process share their connections.
func client(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	return must.Get(kubernetes.NewForConfig(clusterConfig(t)))(t)
}

// get reads one object, or a list, as "kubectl get" with these arguments does. T says of which kind.
func get[T any](t *testing.T, args ...string) (to T) {
	t.Helper()
	var ns, selector string
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	flags.StringVar(&ns, "n", "", "")
	flags.StringVar(&selector, "l", "", "")
	flags.Bool("A", false, "")
	var words []string
	for len(args) > 0 {
		must.Do(t, flags.Parse(args))
		if args = flags.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(any(&to).(runtime.Object))
	must.Do(t, err)
	kind := kinds[0]
	kind.Kind = strings.TrimSuffix(kind.Kind, "List")
	resource, _ := meta.UnsafeGuessKindToResource(kind)
	root := "/apis/" + kind.GroupVersion().String()
	if kind.Group == "" {
		root = "/api/" + kind.Version
	}
	request := client(t).CoreV1().RESTClient().Get().AbsPath(root).NamespaceIfScoped(ns, ns != "").Resource(resource.Resource)
	if len(words) > 1 {
		request.Name(words[1])
	} else {
		request.Param("labelSelector", selector)
	}
	return parse[T](t, string(must.Get(request.Do(t.Context()).Raw())(t)))
}

// apply creates the objects of manifests in a namespace.
func apply(t *testing.T, ns string, manifests ...string) {
	t.Helper()
	if out := runCommand(t.Context(), t, strings.Join(manifests, "---\n"), "kubectl", "-n", ns, "apply", "-f", "-"); out.code != 0 {
		t.Fatalf("creating objects: %s", out.stderr)
	}
}

// running is a command that runs while the test goes on.
type running struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr lockedBuffer
	// ended is closed when the command has ended; err says how.
	ended chan struct{}
	err   error
}

// start starts a command, which ends with the test at the latest.
func start(t *testing.T, name string, args ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: exec.Command(name, args...), ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	must.Do(t, r.cmd.Start())
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		<-r.ended
	})
	return r
}

// wait returns how the command has ended.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		r.t.Fatalf("%q runs on after %v", r.cmd.Args, patience)
	}
	return r.err
}

// interrupt ends the command as Ctrl-C does, and returns how it has ended. kubectl replaces
// itself by the plugin, so the signal reaches that.
func (r *running) interrupt() error {
	r.t.Helper()
	must.Do(r.t, r.cmd.Process.Signal(syscall.SIGINT))
	return r.wait()
}

// says waits until the command has printed a text on one of its outputs.
func (r *running) says(text string) {
	r.t.Helper()
	eventually(r.t, "it says "+text, func() error {
		if said := r.stdout.String() + r.stderr.String(); !strings.Contains(said, text) {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
}

// lockedBuffer takes what a program prints while a test reads it.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// eventually waits until condition returns nil. It asks ever more seldom, since what it asks may
// be processes and keep what it waits for from the processors.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	start := time.Now()
	for {
		err := condition()
		if err == nil {
			return
		}
		waited := time.Since(start)
		if waited > patience {
			t.Fatalf("%s: still not so after %v: %v", what, patience, err)
		}
		time.Sleep(max(100*time.Millisecond, min(waited/8, time.Second)))
	}
}

// await waits until condition holds.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	eventually(t, what, func() error {
		if !condition() {
			return errors.New("it is not so")
		}
		return nil
	})
}

// atEnd runs kubectl when the test has ended, whose own context is done by then.
func atEnd(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() { runCommand(context.Background(), t, "", "kubectl", args...) })
}

// awaitKubectl runs kubectl until it succeeds.
func awaitKubectl(t *testing.T, what string, args ...string) {
	t.Helper()
	eventually(t, what, func() error {
		if out := runCommand(t.Context(), t, "", "kubectl", args...); out.code != 0 {
			return errors.New(out.stderr)
		}
		return nil
	})
}

// namespace creates a namespace that is deleted after the test.
func namespace(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("e2e-%s-%d", strings.ToLower(strings.Split(t.Name(), "/")[0][4:]), time.Now().UnixNano()%1e6)
	api := client(t).CoreV1()
	must.Get(api.Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
	// The test's own context is done by then.
	t.Cleanup(func() { _ = api.Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}) })
	eventually(t, "the service account of "+name, func() error {
		_, err := api.ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return name
}
