package remote

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/execstreams"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// container is what a test's command does with its streams; it returns what
// goes to the error channel.
type container func(r *http.Request, stdin io.Reader, stdout, stderr io.Writer) metav1.Status

// server is an API server that knows one pod and runs commands in it.
type server struct {
	run container
	// pod is answered to GET, not found if nil.
	pod *corev1.Pod
	// refuse answers exec requests instead of running anything.
	refuse http.HandlerFunc
	// refuseWebSocket answers only WebSockets.
	refuseWebSocket http.HandlerFunc

	mu       sync.Mutex
	requests []string
	commands []string
}

// says is a container whose command prints that and ends.
func says(code int, out, words string) container {
	return func(_ *http.Request, _ io.Reader, stdout, stderr io.Writer) metav1.Status {
		_, _ = io.WriteString(stdout, out)
		_, _ = io.WriteString(stderr, words)
		return exit(code)
	}
}

// asked returns the commands so far, and forgets them.
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.commands
	s.commands = nil
	return asked
}

func (s *server) seen(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, what)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/api/v1/namespaces/demo/pods/web":
		s.seen("get")
		if s.pod == nil {
			refuse(http.StatusNotFound, metav1.StatusReasonNotFound, `pods "web" not found`)(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		pod := *s.pod
		pod.APIVersion, pod.Kind = "v1", "Pod"
		_ = json.NewEncoder(w).Encode(pod)
	case r.URL.Path != "/api/v1/namespaces/demo/pods/web/exec":
		http.Error(w, "unexpected path "+r.URL.Path, http.StatusTeapot)
	case s.refuse != nil:
		s.seen("refused " + r.Method)
		s.refuse(w, r)
	case wsstream.IsWebSocketRequest(r) && s.refuseWebSocket != nil:
		s.seen("refused websocket")
		s.refuseWebSocket(w, r)
	case wsstream.IsWebSocketRequest(r):
		s.seen("websocket")
		s.stream(w, r)
	default:
		s.seen("spdy")
		s.stream(w, r)
	}
}

func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.commands = append(s.commands, strings.Join(r.URL.Query()["command"], " "))
	s.mu.Unlock()
	execstreams.Serve(w, r, func(stdin io.Reader, stdout, stderr io.Writer) metav1.Status { return s.run(r, stdin, stdout, stderr) })
}

func exit(code int) metav1.Status { return execstreams.Exit(code) }

// refuse answers as the API server itself does.
func refuse(code int, reason metav1.StatusReason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
	}
}

// kubelet answers as the API server does when it passes on a kubelet's answer.
func kubelet(code int, words string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, words, code) }
}

// start returns the gateway in the server's pod.
func (s *server) start(t *testing.T) *Conn {
	t.Helper()
	listening := httptest.NewServer(s)
	t.Cleanup(listening.Close)
	config := &rest.Config{Host: listening.URL}
	kube := must.Get(kubernetes.NewForConfig(config))(t)
	client := NewClient(config, kube)
	client.Backoff = wait.Backoff{}
	client.Survey = func(context.Context, *corev1.Pod) (*survey.Survey, error) { return new(survey.Survey), nil }
	return client.Gateway(running(), "kube-gateway")
}

// exec runs a command in the gateway's container.
func (s *server) exec(t *testing.T, ctx context.Context, stdin io.Reader, stdout io.Writer, command ...string) error {
	g := s.start(t)
	return g.client.Runner.Run(ctx, g.Ref(), stdin, stdout, command...)
}

func podWith(state corev1.ContainerState) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web"}, Status: corev1.PodStatus{
		PodIPs:                     []corev1.PodIP{{IP: "10.0.0.7"}},
		ContainerStatuses:          []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "kube-gateway", State: state}}}}
}

func running() *corev1.Pod {
	return podWith(corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(1, 0))}})
}
