package tail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// logs is an API server for the logs of some pods.
type logs struct {
	t *testing.T
	// pods answers GETs; a missing pod is gone.
	pods map[string]*corev1.Pod
	// streams answers the requests for one pod's log in turn; once there is none
	// left, requests fail.
	streams map[string][]http.HandlerFunc

	mu      sync.Mutex
	queries map[string][]url.Values
}

func (l *logs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, isLog := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/demo/pods/"), "/log")
	l.mu.Lock()
	pod := l.pods[name]
	var stream http.HandlerFunc
	if isLog {
		l.queries[name] = append(l.queries[name], r.URL.Query())
		if rest := l.streams[name]; len(rest) > 0 {
			stream, l.streams[name] = rest[0], rest[1:]
		}
	}
	l.mu.Unlock()
	switch {
	case stream != nil:
		stream(w, r)
	case isLog:
		refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "no stream")
	case pod == nil:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "gone")
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(pod)
	}
}

// set changes what is answered about a pod from now on.
func (l *logs) set(name string, pod *corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods[name] = pod
}

func (l *logs) query(name string, n int) url.Values {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n >= len(l.queries[name]) {
		l.t.Fatalf("only %d requests for the log of %s", len(l.queries[name]), name)
	}
	return l.queries[name][n]
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
}

// refuses answers with an error.
func refuses(code int, reason metav1.StatusReason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { refuse(w, code, reason, message) }
}

// then answers as answer does, and pod is what web is from then on.
func (l *logs) then(answer http.HandlerFunc, pod *corev1.Pod) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer(w, r)
		l.set("web", pod)
	}
}

// lines answers with n connection lines from number first on, one a second.
func lines(first, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeLines(w, first, n) }
}

func writeLines(w http.ResponseWriter, first, n int) {
	for i := first; i < first+n; i++ {
		at := time.Date(2030, 5, 1, 12, 0, i, 5000, time.UTC).Format(time.RFC3339Nano)
		fmt.Fprintf(w, "%s {\"msg\":\"connection\",\"reason\":\"line %d\"}\n", at, i)
	}
	w.(http.Flusher).Flush()
}

func gatewayPod(name string, states ...corev1.ContainerState) *corev1.Pod {
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: types.UID(name)}}
	for _, state := range states {
		fakecluster.AddGateway(pod, "{}", state)
	}
	return pod
}

var (
	up   = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	dead = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Message: "no more\x1b"}}
)

// output is a buffer that can be waited for.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	wait map[string]func()
	fail error
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return 0, o.fail
	}
	o.text.Write(p)
	for text, do := range o.wait {
		if strings.Contains(o.text.String(), text) {
			delete(o.wait, text)
			do()
		}
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// run runs a tailer to its end without an error.
func run(ctx context.Context, t *testing.T, tailer *Tailer, pods ...corev1.Pod) {
	t.Helper()
	if err := tailer.Run(ctx, pods); err != nil {
		t.Fatalf("%v, stderr %q", err, tailer.ErrOut)
	}
}

// hasLines checks the numbers of the connection lines, in the order of output.
func (o *output) hasLines(t *testing.T, want string) {
	t.Helper()
	var all []string
	for _, match := range regexp.MustCompile(`\(line (\d+)\)`).FindAllStringSubmatch(o.String(), -1) {
		all = append(all, match[1])
	}
	if diff := cmp.Diff(want, strings.Join(all, " ")); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s\nin\n%s", diff, o)
	}
}

// says checks what the output holds.
func (o *output) says(t *testing.T, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(o.String(), want) {
			t.Errorf("%q is not in %q", want, o)
		}
	}
}

func (l *logs) tailer(t *testing.T, o Options) (*Tailer, *output, *output) {
	return l.tailerOf(t, l, o)
}

// tailerOf is a tailer of what handler serves, with the logs of l.
func (l *logs) tailerOf(t *testing.T, handler http.Handler, o Options) (*Tailer, *output, *output) {
	t.Helper()
	l.t, l.queries = t, map[string][]url.Values{}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	kube := must.Get(kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1}))(t)
	if o.Parallel == 0 {
		o.Parallel = 8
	}
	out, errOut := &output{}, &output{}
	return &Tailer{Kube: kube, Formatter: plainText(), Options: o, Out: out, ErrOut: errOut,
		Retry: wait.Backoff{Duration: time.Millisecond, Steps: 3}}, out, errOut
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestWithoutFollowing(t *testing.T) {
	l := &logs{streams: map[string][]http.HandlerFunc{"web": {lines(0, 2)}, "db": {lines(7, 1)}}}
	tailer, out, errOut := l.tailer(t, Options{Since: 1500 * time.Millisecond, Lines: 5, Parallel: 1})
	err := tailer.Run(bounded(t), []corev1.Pod{*gatewayPod("web", up), *gatewayPod("db", dead)})
	if err != nil || errOut.String() != "" {
		t.Fatalf("got %v, stderr %q", err, errOut)
	}
	out.hasLines(t, "0 1 7")
	want := url.Values{"container": {"kube-gateway"}, "sinceSeconds": {"2"}, "tailLines": {"5"}, "timestamps": {"true"}}
	if got := l.query("web", 0); got.Encode() != want.Encode() {
		t.Errorf("asked for %v, want %v", got, want)
	}
}

func TestAllLines(t *testing.T) {
	l := &logs{streams: map[string][]http.HandlerFunc{"web": {lines(0, 1)}}}
	tailer, _, _ := l.tailer(t, Options{Lines: -1})
	run(bounded(t), t, tailer, *gatewayPod("web", up))
	if q := l.query("web", 0); q.Has("tailLines") || q.Has("sinceSeconds") || q.Has("follow") {
		t.Errorf("asked for %v", q)
	}
}

// Ctrl-C while nothing happens must end at once and well.
func TestEndsWithItsContext(t *testing.T) {
	l := &logs{streams: map[string][]http.HandlerFunc{"web": {func(w http.ResponseWriter, r *http.Request) {
		writeLines(w, 0, 1)
		<-r.Context().Done()
	}}}}
	tailer, out, errOut := l.tailer(t, Options{Follow: true, Lines: 10})
	ctx, cancel := context.WithCancel(bounded(t))
	out.wait = map[string]func(){"line 0": cancel}
	if err := tailer.Run(ctx, []corev1.Pod{*gatewayPod("web", up)}); err != nil || errOut.String() != "" {
		t.Errorf("got %v, stderr %q", err, errOut)
	}
	if l.query("web", 0).Get("follow") != "true" {
		t.Error("did not follow")
	}
}

func TestBrokenStreamIsTakenUpWithoutRepeating(t *testing.T) {
	l := &logs{pods: map[string]*corev1.Pod{"web": gatewayPod("web", up)}}
	l.streams = map[string][]http.HandlerFunc{"web": {
		lines(0, 3),
		refuses(500, metav1.StatusReasonInternalError, "kubelet away"),
		// The server repeats a whole second, and has something new.
		l.then(lines(2, 3), gatewayPod("web", dead)),
		// The stream before ended too early.
		lines(4, 2),
	}}
	tailer, out, errOut := l.tailer(t, Options{Follow: true, Lines: 10})
	run(bounded(t), t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "0 1 2 3 4 5")
	errOut.says(t, "the log stream ended, reading on", "the log stream broke, trying again", "kubelet away",
		`the gateway ended with exit code 2: no more\x1b`, "hint: 'kubectl gateway enable pod/web -n demo'")
	if rest := l.query("web", 3); rest.Has("follow") || rest.Get("sinceTime") != "2030-05-01T12:00:04Z" {
		t.Errorf("read the rest with %v", rest)
	}
	again := l.query("web", 2)
	if again.Get("sinceTime") != "2030-05-01T12:00:02Z" || again.Has("tailLines") {
		t.Errorf("took it up with %v", again)
	}
}

func TestSuccessorIsFollowed(t *testing.T) {
	l := &logs{pods: map[string]*corev1.Pod{"web": gatewayPod("web", dead, up)}}
	l.streams = map[string][]http.HandlerFunc{"web": {lines(0, 1), lines(0, 1), l.then(lines(0, 2), nil)}}
	tailer, out, errOut := l.tailer(t, Options{Follow: true, Lines: 1})
	run(bounded(t), t, tailer, *gatewayPod("web", up))
	out.hasLines(t, "0 0 1")
	if q := l.query("web", 2); q.Get("container") != "kube-gateway-2" || q.Has("tailLines") || q.Has("sinceTime") {
		t.Errorf("asked the successor for %v", q)
	}
	errOut.says(t, "following kube-gateway-2", "the pod is gone")
}

func TestGivesUpInTheEnd(t *testing.T) {
	l := &logs{pods: map[string]*corev1.Pod{"web": gatewayPod("web", up)}, streams: map[string][]http.HandlerFunc{"web": {lines(0, 1)}}}
	tailer, _, errOut := l.tailer(t, Options{Follow: true})
	if err := tailer.Run(bounded(t), []corev1.Pod{*gatewayPod("web", up)}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("got %v", err)
	}
	errOut.says(t, "keeps breaking")
}

func TestOnePodsTroubleDoesNotStopTheOthers(t *testing.T) {
	for _, follow := range []bool{false, true} {
		l := &logs{streams: map[string][]http.HandlerFunc{
			"web":    {lines(0, 1)},
			"secret": {refuses(http.StatusForbidden, metav1.StatusReasonForbidden, "pods \"secret\" is forbidden")},
		}}
		tailer, out, errOut := l.tailer(t, Options{Follow: follow})
		err := tailer.Run(bounded(t), []corev1.Pod{*gatewayPod("secret", up), *gatewayPod("bare"), *gatewayPod("web", up)})
		if !errors.Is(err, ErrIncomplete) {
			t.Errorf("got %v", err)
		}
		out.hasLines(t, "0")
		errOut.says(t, "pod/secret -n demo: error: opening the log", "pods/log", "pod/bare -n demo: error: the pod has no gateway", "enable pod/bare")
	}
}

func TestTooManyToFollow(t *testing.T) {
	tailer, _, _ := (&logs{}).tailer(t, Options{Follow: true, Parallel: 1})
	err := tailer.Run(bounded(t), []corev1.Pod{*gatewayPod("a", up), *gatewayPod("b", up)})
	if err == nil || !strings.Contains(api.Hint(err), "--max-log-requests") {
		t.Errorf("got %v", err)
	}
}

// When nobody reads any more, waiting streams must end, too.
func TestOutputThatFailsEndsEverything(t *testing.T) {
	l := &logs{streams: map[string][]http.HandlerFunc{
		"web":  {lines(0, 1)},
		"idle": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	}}
	tailer, out, _ := l.tailer(t, Options{Follow: true})
	out.fail = errors.New("no space left")
	err := tailer.Run(bounded(t), []corev1.Pod{*gatewayPod("idle", up), *gatewayPod("web", up)})
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
}

func TestReadLines(t *testing.T) {
	long := strings.Repeat("x", maxLine+10)
	var got []string
	err := readLines(strings.NewReader("a\n\r\n\nb\r\n"+long+"\nlast"), func(line []byte, whole bool) error {
		if whole == (string(line) == "last") {
			t.Errorf("whole is %v of %.10q", whole, line)
		}
		got = append(got, string(line))
		return nil
	})
	must.Do(t, err)
	if diff := cmp.Diff([]string{"a", "b", strings.Repeat("x", maxLine) + cutMark, "last"}, got); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s", diff)
	}
}
