package control

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// serve runs a server with handle and returns the path of its socket.
func serve(t *testing.T, handle Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	ln := must.Get(Listen(path))(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- Serve(ctx, ln, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return path
}

func echo(_ context.Context, r Request) (any, error) { return r.Op, nil }

func TestCall(t *testing.T) {
	path := serve(t, func(_ context.Context, r Request) (any, error) {
		if r.Op == "fail" {
			return nil, errors.New("it failed")
		}
		return map[string]string{"op": r.Op}, nil
	})
	var got map[string]string
	if err := Call(t.Context(), path, Request{Op: "hello"}, &got); err != nil || got["op"] != "hello" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := Call(t.Context(), path, Request{Op: "fail"}, &got); err == nil || err.Error() != "it failed" {
		t.Errorf("error is %v", err)
	}
}

func TestCallWaitsForTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	done := make(chan error)
	go func() {
		var got string
		done <- Call(t.Context(), path, Request{Op: "x", Wait: time.Minute}, &got)
	}()
	ln := must.Get(Listen(path))(t)
	go Serve(t.Context(), ln, echo)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Call(t.Context(), path+".none", Request{Op: "x"}, new(string)); err == nil {
		t.Error("a missing socket was reached")
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	handling := make(chan struct{})
	path := serve(t, func(ctx context.Context, _ Request) (any, error) {
		close(handling)
		<-ctx.Done() // the client's hanging up ends the request
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-handling
		cancel()
	}()
	if err := Call(ctx, path, Request{Op: "x"}, new(string)); err == nil {
		t.Error("the call succeeded")
	}
}

func TestSocketIsForRootAlone(t *testing.T) {
	path := serve(t, echo)
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		info := must.Get(os.Stat(name))(t)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
}

func TestBadRequestsGetAnError(t *testing.T) {
	path := serve(t, echo)
	for _, text := range []string{"not JSON\n", "{\n", strings.Repeat("x", maxMessage+1)} {
		conn := must.Get(net.Dial("unix", path))(t)
		// The server may stop reading before everything is written.
		go io.WriteString(conn, text)
		answer, _ := io.ReadAll(conn)
		if !strings.Contains(string(answer), `"error"`) {
			t.Errorf("%.20q was answered with %q", text, answer)
		}
		conn.Close()
	}
}

// TestLastAnswerIsUsed: the server does not end while a client uses its answer.
func TestLastAnswerIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	ln := must.Get(Listen(path))(t)
	ctx, end := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		err := Serve(ctx, ln, func(context.Context, Request) (any, error) {
			end()
			return "bye", nil
		})
		if err != nil {
			t.Error(err)
		}
	}()
	var got string
	err := CallAndUse(t.Context(), path, Request{Op: OpDisable}, &got, func() error {
		select {
		case <-served:
			t.Error("the server ended before its answer was used")
		// Long enough for a server that does not wait.
		case <-time.After(50 * time.Millisecond):
		}
		return nil
	})
	if err != nil || got != "bye" {
		t.Errorf("got %q, %v", got, err)
	}
	<-served
}
