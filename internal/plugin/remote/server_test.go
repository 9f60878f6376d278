package remote

import (
	"context"
	"encoding/json"
	"fmt"
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
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
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
		s.webSocket(w, r)
	default:
		s.seen("spdy")
		s.spdy(w, r)
	}
}

func (s *server) webSocket(w http.ResponseWriter, r *http.Request) {
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {Binary: true,
		Channels: []wsstream.ChannelType{wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel}}})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return
	}
	defer conn.Close()
	s.finish(s.run(r, streams[0], streams[1], streams[2]), streams[3])
}

func (s *server) spdy(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	opened := make(chan httpstream.Stream, 8)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		opened <- stream
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	streams := map[string]httpstream.Stream{}
	for want := 3 + strings.Count(r.URL.RawQuery, "stdin=true"); len(streams) < want; {
		select {
		case stream := <-opened:
			streams[stream.Headers().Get(corev1.StreamType)] = stream
		case <-conn.CloseChan():
			return
		}
	}
	var stdin io.Reader = strings.NewReader("")
	if stream := streams["stdin"]; stream != nil {
		stdin = stream
	}
	status := s.run(r, stdin, streams["stdout"], streams["stderr"])
	_ = streams["stdout"].Close()
	_ = streams["stderr"].Close()
	s.finish(status, streams["error"])
	_ = streams["error"].Close()
	// The client closes the connection when it has read everything.
	<-conn.CloseChan()
}

func (s *server) finish(status metav1.Status, errors io.Writer) {
	text, _ := json.Marshal(status)
	_, _ = errors.Write(text)
}

func exit(code int) metav1.Status {
	if code == 0 {
		return metav1.Status{Status: metav1.StatusSuccess}
	}
	return metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Details: &metav1.StatusDetails{
		Causes: []metav1.StatusCause{{Type: "ExitCode", Message: fmt.Sprint(code)}}}}
}

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
