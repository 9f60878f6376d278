package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
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
			var stdout, stderr bytes.Buffer
			err := s.start(t).Exec(bounded(t), "demo", "web", "kube-gateway", strings.NewReader("hello"), &stdout, &stderr, "/kube-gateway", "ctl")
			if err != nil {
				t.Fatal(err)
			}
			if want := `hello kube-gateway ["/kube-gateway" "ctl"]`; stdout.String() != want {
				t.Errorf("stdout %q, want %q", stdout.String(), want)
			}
			if stderr.String() != "a warning" {
				t.Errorf("stderr %q", stderr.String())
			}
			if protocol, _, _ := strings.Cut(name, " "); !slices.Contains(s.requests, protocol) {
				t.Errorf("requests were %q", s.requests)
			}
		})
	}
}

func TestExecWithoutStreams(t *testing.T) {
	if err := (&server{run: echo}).start(t).Exec(bounded(t), "demo", "web", "kube-gateway", nil, nil, nil, "x"); err != nil {
		t.Error(err)
	}
}

func TestExitCode(t *testing.T) {
	s := &server{run: func(_ *http.Request, _ io.Reader, _, stderr io.Writer) metav1.Status {
		fmt.Fprint(stderr, "first\n\x1b[2Jsecond\n", strings.Repeat("x", 2*stderrLimit))
		return exit(3)
	}}
	err := s.start(t).Exec(bounded(t), "demo", "web", "kube-gateway", nil, nil, nil, "/kube-gateway", "ctl")
	var failed *ExitError
	if !errors.As(err, &failed) || failed.Code != 3 {
		t.Fatalf("got %v", err)
	}
	if want := `/kube-gateway ended with exit code 3: first; \x1b[2Jsecond; xxx`; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %.120q, want %q", err, want)
	}
	if len(failed.Stderr) != stderrLimit {
		t.Errorf("%d bytes of stderr are kept", len(failed.Stderr))
	}
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
			err := c.server.start(t).Exec(bounded(t), "demo", "web", "kube-gateway", nil, nil, nil, "x")
			if err == nil {
				t.Fatal("no error")
			}
			for _, sentinel := range all {
				if errors.Is(err, sentinel) != (sentinel == c.is) {
					t.Errorf("%v: is %q = %v", err, sentinel, !(sentinel == c.is))
				}
			}
			if !strings.Contains(err.Error(), c.text) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("got %q, want one harmless line with %q", err, c.text)
			}
			if !strings.Contains(api.Hint(err), c.hint) {
				t.Errorf("hint %q, want %q in it", api.Hint(err), c.hint)
			}
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
			if err := s.start(t).Exec(ctx, "demo", "web", "kube-gateway", nil, nil, nil, "x"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func answering(code int, text string) *server {
	return &server{pod: running(), run: func(_ *http.Request, _ io.Reader, stdout, stderr io.Writer) metav1.Status {
		_, _ = io.WriteString(stdout, text)
		return exit(code)
	}}
}

func TestStatus(t *testing.T) {
	var commands []string
	s := answering(0, `{"state":"ready","version":"v1","fromTheFuture":[1]}`)
	answer := s.run
	s.run = func(r *http.Request, in io.Reader, out, errs io.Writer) metav1.Status {
		commands = append(commands, strings.Join(r.URL.Query()["command"], " "))
		return answer(r, in, out, errs)
	}
	client := s.start(t)
	for _, wait := range []time.Duration{0, 30 * time.Second} {
		status, err := client.Status(bounded(t), "demo", "web", "kube-gateway", wait)
		if err != nil || status.State != api.Ready || status.Version != "v1" {
			t.Errorf("got %+v, %v", status, err)
		}
	}
	if want := []string{"/kube-gateway ctl status -o json", "/kube-gateway ctl status -o json --wait=30s"}; !slices.Equal(commands, want) {
		t.Errorf("commands %q, want %q", commands, want)
	}
}

func TestStatusWithFailure(t *testing.T) {
	status, err := answering(1, `{"state":"degraded","reason":"worker gone"}`).start(t).Status(bounded(t), "demo", "web", "kube-gateway", 0)
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
		{"endless", `{"reason":"` + strings.Repeat("a", statusLimit) + `","state":"ready"}`, "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, err := answering(0, c.answer).start(t).Status(bounded(t), "demo", "web", "kube-gateway", 0)
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
	if _, err := s.start(t).Status(bounded(t), "demo", "web", "kube-gateway", 0); !errors.Is(err, errTooLong) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`{"state":"ready","podIPs":["10.0.0.1"],"capture":{"ranges":["10.0.0.0/8"]}}`))
	f.Add([]byte(`{"state":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		status, err := parseStatus(text)
		if (status == nil) == (err == nil) {
			t.Fatalf("got %v, %v", status, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\n\u009b") {
			t.Fatalf("harmful error %q", err)
		}
	})
}
