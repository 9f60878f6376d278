package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// bounded gives up long after anything here should have ended.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// echo runs a command that answers with its input, its arguments and exit code 0.
func echo(r *http.Request, stdin io.Reader, stdout, stderr io.Writer) metav1.Status {
	input := ""
	if r.URL.Query().Get("stdin") == "true" {
		line := make([]byte, len("hello"))
		_, _ = io.ReadFull(stdin, line)
		input = string(line)
	}
	query := r.URL.Query()
	fmt.Fprintf(stdout, "%s %s %q", input, query.Get("container"), query["command"])
	fmt.Fprint(stderr, "a warning")
	return exit(0)
}

func TestExec(t *testing.T) {
	for name, s := range map[string]*server{
		"websocket": {run: echo},
		"spdy":      {run: echo, refuseWebSocket: kubelet(http.StatusBadRequest, "no such upgrade")},
		// The verb for one is get, for the other create.
		"spdy after forbidden": {run: echo, refuseWebSocket: refuse(http.StatusForbidden, metav1.StatusReasonForbidden, "no get")},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout bytes.Buffer
			must.Do(t, s.exec(t, bounded(t), strings.NewReader("hello"), &stdout, "/kube-gateway", "ctl"))
			if want := `hello kube-gateway ["/kube-gateway" "ctl"]`; stdout.String() != want {
				t.Errorf("stdout %q, want %q", stdout.String(), want)
			}
			if protocol, _, _ := strings.Cut(name, " "); !slices.Contains(s.requests, protocol) {
				t.Errorf("requests were %q", s.requests)
			}
		})
	}
}

func TestExecWithoutStreams(t *testing.T) {
	must.Do(t, (&server{run: echo}).exec(t, bounded(t), nil, nil, "x"))
}

func TestExitCode(t *testing.T) {
	s := &server{run: says(3, "", "first\n\x1b[2Jsecond\n"+strings.Repeat("x", 2*stderrLimit))}
	err := s.exec(t, bounded(t), nil, nil, "/kube-gateway", "ctl")
	var failed *ExitError
	if !errors.As(err, &failed) || failed.Code != 3 {
		t.Fatalf("got %v", err)
	}
	if want := `/kube-gateway ended with exit code 3: first; \x1b[2Jsecond; xxx`; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %.120q, want %q", err, want)
	}
	expect.Equal(t, "bytes of stderr that are kept", stderrLimit, len(failed.Stderr))
}

func TestExecErrors(t *testing.T) {
	ended := podWith(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2}})
	waiting := podWith(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}})
	unseen := &corev1.Pod{}
	notFound := kubelet(http.StatusInternalServerError, `container not found ("kube-gateway")`)
	all := []error{ErrForbidden, ErrPodGone, ErrNotRunning}
	for _, c := range []struct {
		name   string
		server *server
		is     error
		text   string
		hint   string
	}{
		{"forbidden", &server{refuse: refuse(http.StatusForbidden, metav1.StatusReasonForbidden, `pods "web" is forbidden: User "eve" cannot create`), pod: running()},
			ErrForbidden, `User "eve" cannot create`, "pods/exec"},
		{"gone", &server{refuse: refuse(http.StatusNotFound, metav1.StatusReasonNotFound, `pods "web" not found`)}, ErrPodGone, "demo/web", ""},
		{"ended", &server{refuse: notFound, pod: ended}, ErrNotRunning, "has ended with exit code 2", ""},
		{"waiting", &server{refuse: notFound, pod: waiting}, ErrNotRunning, "waits: ErrImagePull", ""},
		{"not started", &server{refuse: notFound, pod: unseen}, ErrNotRunning, "has not started", ""},
		{"kubelet away", &server{refuse: kubelet(http.StatusInternalServerError, "error dialing backend:\n\x1b[2J no route"), pod: running()},
			nil, `no route`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.server.exec(t, bounded(t), nil, nil, "x")
			for _, sentinel := range all {
				if errors.Is(err, sentinel) != (sentinel == c.is) {
					t.Errorf("%v: is %q = %v", err, sentinel, !(sentinel == c.is))
				}
			}
			if _, unheard := errors.AsType[*UnheardError](err); unheard != (c.is == nil) {
				t.Errorf("%v: unheard %v", err, unheard)
			}
			expect.Refusal(t, c.name, err, c.is, c.text, c.hint)
		})
	}
}

func TestExecEndsWithItsContext(t *testing.T) {
	for name, refused := range map[string]http.HandlerFunc{"websocket": nil, "spdy": kubelet(http.StatusBadRequest, "no")} {
		t.Run(name, func(t *testing.T) {
			begun, stop := make(chan struct{}), make(chan struct{})
			defer close(stop)
			s := &server{refuseWebSocket: refused, run: func(*http.Request, io.Reader, io.Writer, io.Writer) metav1.Status {
				close(begun)
				<-stop
				return exit(0)
			}}
			ctx, cancel := context.WithCancel(bounded(t))
			go func() { <-begun; cancel() }()
			if err := s.exec(t, ctx, nil, nil, "x"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func answering(code int, text string) *server {
	return &server{pod: running(), run: says(code, text, "")}
}

func TestStatus(t *testing.T) {
	s := answering(0, `{"state":"ready","version":"v1","fromTheFuture":[1]}`)
	gateway := s.start(t)
	for _, ask := range []func(context.Context) (*api.Status, error){gateway.Status, gateway.Await} {
		status, err := ask(t.Context())
		if err != nil || status.State != api.Ready || status.Version != "v1" {
			t.Errorf("got %+v, %v", status, err)
		}
	}
	expect.Equal(t, "commands", []string{"/kube-gateway ctl status -o json", "/kube-gateway ctl status --wait=1m0s -o json"}, s.asked())
}

func TestStatusWithFailure(t *testing.T) {
	status, err := answering(1, `{"state":"degraded","reason":"worker gone"}`).start(t).Status(bounded(t))
	if status == nil || status.Reason != "worker gone" || !errors.As(err, new(*ExitError)) {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestStatusErrors(t *testing.T) {
	for _, c := range []struct{ name, answer, text string }{
		{"nothing", "", "reading its answer"},
		{"no JSON", "\x1b[2Jhello", "reading its answer"},
		{"another object", `{"kind":"Pod"}`, "not a status"},
		{"null", "null", "not a status"},
		{"cut", `{"state":"rea`, "reading its answer"},
		{"endless", `{"reason":"` + strings.Repeat("a", answerLimit) + `","state":"ready"}`, "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, err := answering(0, c.answer).start(t).Status(bounded(t))
			if status != nil || err == nil || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("got %+v, %v, want an error with %q", status, err, c.text)
			}
		})
	}
}

// A gateway that never stops answering must be cut off, not read for ever.
func TestStatusStopsReading(t *testing.T) {
	s := &server{run: func(r *http.Request, _ io.Reader, stdout, _ io.Writer) metav1.Status {
		for {
			if _, err := stdout.Write(make([]byte, 16<<10)); err != nil {
				return exit(0)
			}
		}
	}}
	if _, err := s.start(t).Status(bounded(t)); !errors.Is(err, errTooLong) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`{"state":"ready","podIPs":["10.0.0.1"],"capture":{"ranges":["10.0.0.0/8"]}}`))
	f.Add([]byte(`{"state":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		status, err := parse(text, (&Conn{pod: &corev1.Pod{}}).checkStatus)
		if (status == nil) == (err == nil) {
			t.Fatalf("got %v, %v", status, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\n\u009b") {
			t.Fatalf("harmful error %q", err)
		}
	})
}

// TestRetry: what may pass is tried again, what will not is not.
func TestRetry(t *testing.T) {
	broken := errors.New("no route")
	for name, c := range map[string]struct {
		errs  []error
		asked int
		ok    bool
	}{
		"passes":        {[]error{broken, broken}, 3, true},
		"stays":         {[]error{broken, broken, broken, broken}, 3, false},
		"forbidden":     {[]error{ErrForbidden, nil}, 1, false},
		"gone":          {[]error{ErrPodGone, nil}, 1, false},
		"not running":   {[]error{ErrNotRunning, nil}, 1, false},
		"another pod's": {[]error{ErrOtherPod, nil}, 1, false},
		"too old":       {[]error{&ExitError{Code: 1, Stderr: "error: unknown control command"}, nil}, 1, false},
		"refused":       {[]error{&ExitError{Code: 1, Stderr: "error: the worker died\nhint: try again"}}, 2, true},
	} {
		asked := 0
		client := Client{Backoff: wait.Backoff{Steps: 3, Duration: time.Nanosecond}, Runner: runnerFunc(func(stdout io.Writer) error {
			if asked++; asked <= len(c.errs) && c.errs[asked-1] != nil {
				return c.errs[asked-1]
			}
			_, err := io.WriteString(stdout, ready("1"))
			return err
		})}
		status, err := client.Gateway(&corev1.Pod{}, "kube-gateway").Status(t.Context())
		if asked != c.asked || (err == nil) != c.ok || (status != nil) != c.ok {
			t.Errorf("%s: asked %d times, %+v, %v", name, asked, status, err)
		}
	}
}

type runnerFunc func(stdout io.Writer) error

func (f runnerFunc) Run(_ context.Context, _ Ref, _ io.Reader, stdout io.Writer, _ ...string) error {
	return f(stdout)
}

// TestAnotherPodsGateway is not believed, whatever it says.
func TestAnotherPodsGateway(t *testing.T) {
	client := Client{Runner: runnerFunc(func(stdout io.Writer) error {
		_, err := io.WriteString(stdout, `{"state":"ready","mode":"strict","pod":{"uid":"other"},"edges":[],"drained":1,"aborted":0}`)
		return err
	})}
	g := client.Gateway(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "mine"}}, "kube-gateway")
	for name, ask := range map[string]func() (any, error){
		"status":  func() (any, error) { return g.Status(t.Context()) },
		"await":   func() (any, error) { return g.Await(t.Context()) },
		"edges":   func() (any, error) { return g.Edges(t.Context()) },
		"mode":    func() (any, error) { return g.SetMode(t.Context(), api.Strict, api.ExistingReset) },
		"allow":   func() (any, error) { return g.SetRules(t.Context(), api.Rules{}, api.ExistingReset) },
		"trust":   func() (any, error) { return g.Trust(t.Context(), nil, nil) },
		"reset":   func() (any, error) { return g.ResetExisting(t.Context()) },
		"disable": func() (any, error) { return g.Disable(t.Context(), 0) },
	} {
		if answer, err := ask(); !errors.Is(err, ErrOtherPod) || !reflect.ValueOf(answer).IsNil() {
			t.Errorf("%s: %+v, %v", name, answer, err)
		}
	}
}

func TestEdges(t *testing.T) {
	say := `{"edges":[{"direction":"outbound","source":"10.0.0.1","destination":"10.0.0.2:80","wire":"port","verdict":"encrypted","connections":3}]}`
	s := answering(0, say)
	client := s.start(t)
	edges, err := client.Edges(bounded(t))
	if err != nil || len(edges.Edges) != 1 || edges.Edges[0].Connections != 3 {
		t.Errorf("%+v, %v", edges, err)
	}
	expect.Equal(t, "commands", []string{"/kube-gateway ctl edges -o json"}, s.asked())
	one := strings.TrimSuffix(say[strings.Index(say, "[")+1:], "]}")
	for _, say = range []string{
		"", "{}", "[]", `{"edges":null}`, `{"edges":[{"source":"\u001b[2J"}]}`, `{"edges":"\u001b[2J"}`,
		`{"edges":[` + strings.Repeat(one+",", api.MaxEdges) + one + "]}",
		`{"edges":[],"x":"` + strings.Repeat("x", answerLimit) + `"}`,
	} {
		s.run = says(0, say, "")
		edges, err := client.Edges(bounded(t))
		if err == nil || edges != nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%.60q: %+v, %q", say, edges, err)
		}
	}
	s.run = says(1, "", "error: unknown control command \"edges\"\nhint: see 'kube-gateway help'\n")
	_, err = client.Edges(bounded(t))
	expect.Refusal(t, "an old gateway", err, nil, "", "one release")
}
