package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// tabServer is an API server for completions. It keeps what else than a question
// is asked of it.
type tabServer struct {
	apiServer
	// hang has it answer when the client gives up.
	hang bool

	mu     sync.Mutex
	writes []string
	asked  int
}

func (s *tabServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	if r.Method != http.MethodGet {
		s.writes = append(s.writes, r.Method+" "+r.URL.Path)
	}
	s.mu.Unlock()
	if s.hang {
		<-r.Context().Done()
		return
	}
	s.apiServer.ServeHTTP(w, r)
}

// kubeconfig starts the server and returns the file by which it is found.
func (s *tabServer) kubeconfig(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q}},{"name":"c2","cluster":{}}],
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u","namespace":"demo"}},{"name":"arn:aws:eks","context":{}},{"name":"bad\u001b[2J","context":{}}],
		"users":[{"name":"u","user":{}}]}`, server.URL)
	must.Do(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// start returns what presses the Tab key at the end of a command line, which
// returns the offers with their descriptions and the directive to the shell.
func (s *tabServer) start(t *testing.T) func(words ...string) ([]string, string) {
	t.Helper()
	path := s.kubeconfig(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("KUBECACHEDIR", "")
	t.Cleanup(func() {
		if entries, err := os.ReadDir(home); err != nil || len(entries) > 0 {
			t.Errorf("written to the home directory: %v, %v", entries, err)
		}
		if s.mu.Lock(); len(s.writes) > 0 {
			t.Errorf("changes in the cluster: %q", s.writes)
		}
		s.mu.Unlock()
	})
	return func(words ...string) ([]string, string) {
		t.Helper()
		code, stdout, stderr := execute(t, append([]string{cobra.ShellCompRequestCmd, "--kubeconfig=" + path}, words...)...)
		lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
		if code != 0 || strings.Contains(stderr, "rror") {
			t.Errorf("%q: exit code %d, stderr %q", words, code, stderr)
		}
		return lines[:len(lines)-1], lines[len(lines)-1]
	}
}

func owned(pod corev1.Pod, kind, name string, labels map[string]string) corev1.Pod {
	group := "apps/v1"
	if kind == "Job" {
		group = "batch/v1"
	}
	pod.Labels = labels
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: group, Kind: kind, Name: name, Controller: new(true)}}
	return pod
}

func tabPods() []corev1.Pod {
	runs := func(pod corev1.Pod) corev1.Pod { pod.Status.Phase = corev1.PodRunning; return pod }
	disabled := &corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: api.DisabledMessage}}
	host := runs(podWithGateway("demo", "host", nil))
	host.Spec.HostNetwork = true
	done := podWithGateway("demo", "done", gatewayDied())
	done.Status.Phase = corev1.PodSucceeded
	pending := podWithGateway("demo", "pending", nil)
	pending.Status.Phase = corev1.PodPending
	hash := map[string]string{"pod-template-hash": "5c9"}
	return []corev1.Pod{
		owned(runs(podWithGateway("demo", "api-5c9-x", gatewayRuns())), "ReplicaSet", "api-5c9", hash),
		owned(runs(podWithGateway("demo", "web-5c9-a", nil)), "ReplicaSet", "web-5c9", hash),
		owned(runs(podWithGateway("demo", "web-5c9-b", gatewayRuns())), "ReplicaSet", "web-5c9", hash),
		owned(runs(podWithGateway("demo", "db-0", gatewayDied())), "StatefulSet", "db", nil),
		owned(runs(podWithGateway("demo", "old", disabled)), "ReplicaSet", "bare", nil),
		owned(runs(podWithGateway("demo", "agent-x", gatewayRuns())), "DaemonSet", "agent", nil),
		owned(done, "Job", "import", nil),
		host, pending, runs(podWithGateway("demo", "bad\x1b[2J", gatewayRuns())), runs(podWithGateway("demo", "two words", gatewayRuns())),
		runs(podWithGateway("other", "far", nil)),
	}
}

// names are the offers without their descriptions.
func names(offers []string) string {
	var all []string
	for _, o := range offers {
		name, _, _ := strings.Cut(o, "\t")
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

func TestCompletesTargets(t *testing.T) {
	tab := (&tabServer{apiServer: apiServer{pods: tabPods()}}).start(t)
	for _, c := range []struct{ line, want string }{
		// What has no gateway that works comes first.
		{"enable ", "pod/db-0 pod/old pod/web-5c9-a deploy/web rs/bare sts/db pod/agent-x pod/api-5c9-x pod/web-5c9-b deploy/api ds/agent"},
		{"enable pod/web-5c9-a old deployment/web ", "pod/db-0 rs/bare sts/db pod/agent-x pod/api-5c9-x pod/web-5c9-b deploy/api ds/agent"},
		{"enable w", "web-5c9-a web-5c9-b"},
		{"enable po/w", "po/web-5c9-a po/web-5c9-b"},
		{"enable deployments.apps/", "deployments.apps/web deployments.apps/api"},
		{"enable dep", "deploy/web deploy/api"},
		{"enable -n other ", "pod/far"},
		{"enable --namespace=other f", "far"},
		{"enable -n void ", ""},
		{"enable --all ", ""}, {"enable -A ", ""}, {"enable -l app=web ", ""}, {"enable -f x.yaml ", ""},
		{"disable ", "pod/agent-x pod/api-5c9-x pod/db-0 pod/done pod/web-5c9-b deploy/api deploy/web ds/agent job/import sts/db"},
		{"rotate ", "pod/agent-x pod/api-5c9-x pod/web-5c9-b deploy/api deploy/web ds/agent"},
		{"allow ", "pod/agent-x pod/api-5c9-x pod/web-5c9-b deploy/api deploy/web ds/agent"},
		{"status d", "db-0 done deploy/api deploy/web ds/agent"},
		{"tail pod/o", "pod/old"},
		{"check pod/h", "pod/host"},
		{"watch -l a=b sts", "sts/db"},
		{"mode pod/a", "pod/agent-x pod/api-5c9-x"},
		{"mode ", "pod/agent-x pod/api-5c9-x pod/web-5c9-b deploy/api deploy/web ds/agent"},
		{"mode pod/agent-x pod/web-5c9-b ds/agent ", "strict permissive pod/api-5c9-x deploy/api deploy/web"},
		{"mode --all ", "strict permissive"}, {"mode --all p", "permissive"}, {"mode -l a=b s", "strict"},
		{"mode pod/agent-x strict ", ""},
		{"version ", ""}, {"init-ca ", ""},
		{"completion ", "bash zsh fish powershell"}, {"completion bash ", "bash zsh fish powershell"},
	} {
		offers, directive := tab(strings.Split(c.line, " ")...)
		if got := names(offers); got != c.want || directive != ":36" && directive != ":4" {
			t.Errorf("%q: offered %q with %s, want %q", c.line, got, directive, c.want)
		}
	}
	offers, _ := tab("enable", "")
	for _, want := range []string{"pod/db-0\tgateway has ended", "pod/old\tgateway disabled", "pod/web-5c9-a\tno gateway", "deploy/web\t2 pods", "pod/agent-x\tgateway runs", "sts/db\t1 pod"} {
		if !slices.Contains(offers, want) {
			t.Errorf("%q is not among %q", want, offers)
		}
	}
}

func TestCompletesFlags(t *testing.T) {
	server := &tabServer{apiServer: apiServer{objects: map[string]string{"/api/v1/namespaces": `{"kind":"NamespaceList","apiVersion":"v1","items":[
		{"metadata":{"name":"demo"}},{"metadata":{"name":"default"}},{"metadata":{"name":"other"}}]}`}}}
	tab := server.start(t)
	const templates = "jsonpath= jsonpath-file= jsonpath-as-json= go-template= go-template-file="
	for _, c := range []struct{ line, want, directive string }{
		{"status -n ", "demo default other", ":4"}, {"status --namespace=d", "demo default", ":4"}, {"watch --lease-namespace o", "other", ":4"},
		{"status --context ", "arn:aws:eks c", ":4"}, {"--cluster c", "c c2", ":4"}, {"enable --user=", "u", ":4"},
		{"enable --mode ", "strict permissive", ":36"}, {"enable --mode=s", "strict permissive", ":36"}, {"watch --mode ", "strict permissive", ":36"},
		{"enable --wire ", "auto port inband", ":36"}, {"enable --on-failure ", "open closed", ":36"},
		{"enable --delivery ", "secret csr", ":36"}, {"enable --existing ", "leave report reset", ":36"},
		{"enable --dry-run ", "none client server", ":36"}, {"enable --image-pull-policy ", "Always IfNotPresent Never", ":36"},
		{"init-ca --store ", "local cluster", ":36"}, {"enable -o ", "name json yaml kyaml " + templates, ":36"}, {"tail -o ", "json " + templates, ":36"},
		{"status -o ", "wide json yaml kyaml name dot svg " + templates + " custom-columns= custom-columns-file=", ":36"},
		{"status -o j", "json jsonpath= jsonpath-file= jsonpath-as-json=", ":36"},
		// No space follows what has an argument.
		{"status --output=jsonpath-", "jsonpath-file= jsonpath-as-json=", ":38"}, {"enable -o go-template-", "go-template-file=", ":38"},
		{"status --sort-by ", "", ":4"},
		{"enable --timeout ", "", ":4"}, {"enable --capture-cidr ", "", ":4"}, {"enable -l ", "", ":4"}, {"enable --server ", "", ":4"},
		// Those of the shell: files, and directories.
		{"enable -f ", "", ":0"}, {"status --kubeconfig ", "", ":0"}, {"init-ca --from-key ", "", ":0"},
		{"enable -k ", "", ":16"}, {"init-ca --dir ", "", ":16"}, {"enable --authority-dir ", "", ":16"},
	} {
		offers, directive := tab(strings.Split(c.line, " ")...)
		if got := names(offers); got != c.want || directive != c.directive {
			t.Errorf("%q: offered %q with %s, want %q with %s", c.line, got, directive, c.want, c.directive)
		}
	}
}

// A verb with targets completes them: pod/api-5c9-x has what all of them look for.
func TestCompletesTargetsOfEveryVerb(t *testing.T) {
	tab := (&tabServer{apiServer: apiServer{pods: tabPods()}}).start(t)
	for _, cmd := range newRootCommand(genericiooptions.NewTestIOStreamsDiscard()).Commands() {
		offers, _ := tab(cmd.Name(), "pod/api")
		takes := strings.Contains(cmd.Use, "TARGET") || strings.Contains(cmd.Use, "POD") || strings.Contains(cmd.Use, "FROM")
		if takes != (names(offers) == "pod/api-5c9-x") {
			t.Errorf("%s offers %q", cmd.Name(), offers)
		}
	}
}

func TestCompletionOfNothing(t *testing.T) {
	for name, server := range map[string]*tabServer{
		"silence": {hang: true},
		"refused": {},
	} {
		t.Run(name, func(t *testing.T) {
			tab := server.start(t)
			for _, line := range [][]string{{"enable", "-n", ""}, {"enable", ""}} {
				if offers, _ := tab(line...); len(offers) != 0 {
					t.Errorf("%q: %q", line, offers)
				}
			}
			if server.asked == 0 {
				t.Error("nothing was asked")
			}
		})
	}
	// Neither a cluster nor a kubeconfig.
	code, stdout, stderr := execute(t, cobra.ShellCompRequestCmd, "--kubeconfig=/nonexistent", "enable", "-n", "")
	if code != 0 || stdout != ":4\n" {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

// A program that fetches credentials knows nothing of the time.
func TestCompletionLeavesBehindWhatHangs(t *testing.T) {
	a := &app{flags: genericclioptions.NewConfigFlags(false)}
	url := "http://127.0.0.1:1"
	a.flags.APIServer = &url
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	ctx, cancel := context.WithCancel(t.Context())
	if offers := a.lookUp(ctx, func(context.Context, kubernetes.Interface) []cobra.Completion {
		cancel()
		<-end
		return []cobra.Completion{"late"}
	}); offers != nil {
		t.Errorf("%q", offers)
	}
}

func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "__start_kubectl-gateway", "zsh": "#compdef kubectl-gateway", "fish": "complete -c kubectl-gateway", "powershell": "Register-ArgumentCompleter",
	} {
		code, stdout, stderr := (&apiServer{}).start(t)("completion", shell)
		if code != 0 || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("%s: exit code %d, stderr %q, %d bytes", shell, code, stderr, len(stdout))
		}
	}
	fails(t, (&apiServer{}).start(t), 1, map[string]string{
		"completion":                "hint: name bash",
		"completion tcsh":           `error: "tcsh" is not a shell that can complete` + "\nhint: name bash",
		"completion bash zsh":       "hint: name bash",
		"completion bash --install": "use one of them",
		"completion bash --dir=/x":  "hint: add --install",
	})
}
