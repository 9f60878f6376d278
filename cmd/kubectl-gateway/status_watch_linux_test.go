package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pty"
)

// TestStatusWatchOnATerminal draws in place, and leaves the cursor visible.
func TestStatusWatchOnATerminal(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	user, program := pty.Open(t)
	must.Do(t, unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 150}))
	g := &edgeGateways{}
	g.each = func(n int) {
		if n == 2 {
			g.count = 41
		}
		g.fail = n > 2
	}
	streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: program, ErrOut: program}
	done := make(chan int)
	go func() {
		done <- runOn(t, ctx, edgesServer(g, "web", "db"), streams, "status", "db", "--edges", "-w", "--interval=1ms")
	}()
	first := until(t, user, "1 edge: 1 encrypted")
	if !strings.HasPrefix(first, "\x1b[?25l") || !strings.Contains(first, "every 1ms, Ctrl-C ends") || !strings.Contains(first, "pod/web   pod/db:5432   ") {
		t.Errorf("the first frame is %q", first)
	}
	second := until(t, user, "1 edge: 1 encrypted")
	if !strings.Contains(second, "\x1b[6F") || !strings.Contains(second, " 42 ") {
		t.Errorf("the second frame is %q", second)
	}
	if failed := until(t, user, "trouble"); strings.Contains(failed, "\x1b[2J") {
		t.Errorf("words of a gateway do something: %q", failed)
	}
	cancel()
	rest := make(chan string)
	go func() { rest <- until(t, user, "\x1b[?25h") }()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	if left := <-rest; strings.Contains(left, "interrupted") {
		t.Errorf("at the end: %q", left)
	}
}
