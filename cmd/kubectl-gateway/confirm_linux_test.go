package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pty"
)

// until reads what the program says, up to text.
func until(t *testing.T, user io.Reader, text string) string {
	t.Helper()
	var said []byte
	for b := make([]byte, 1); !bytes.Contains(said, []byte(text)); {
		if _, err := user.Read(b); err != nil {
			t.Fatalf("%v after %q", err, said)
		}
		said = append(said, b...)
	}
	return string(said)
}

func manyGateways(g *gatewayContainers) *apiServer {
	return &apiServer{gateway: g.run, pods: []corev1.Pod{
		podWithGateway("demo", "web", gatewayRuns()),
		podWithGateway("demo", "bystander", nil),
		podWithGateway("other", "db", gatewayRuns()),
	}}
}

func TestConfirmation(t *testing.T) {
	for _, c := range []struct {
		line, question, answer string
		code, changed          int
	}{
		{"mode --all strict", `set mode strict for 1 pod in namespace "demo"? [y/N] `, "y\n", 0, 1},
		{"mode --all -A strict", "set mode strict for 2 pods in 2 namespaces? [y/N] ", "yes\n", 0, 2},
		{"mode --all -A strict", "set mode strict for 2 pods in 2 namespaces? [y/N] ", " Y \n", 0, 2},
		{"allow -A -l app!=x --everyone", "change who may connect to 2 pods in 2 namespaces? [y/N] ", "y\n", 0, 2},
		{"mode --all strict", "? [y/N] ", "n\n", 1, 0},
		{"mode --all strict", "? [y/N] ", "\n", 1, 0},
		{"mode --all strict", "? [y/N] ", "yesterday\n", 1, 0},
		{"mode --all strict", "? [y/N] ", "\x04", 1, 0}, // end of input
		{"mode --all -A strict -y", "", "", 0, 2},
		{"mode -l app!=x strict", "", "", 0, 1},
	} {
		var g gatewayContainers
		user, program := pty.Open(t)
		var code int
		done := make(chan struct{})
		go func() {
			defer close(done)
			code = runOn(t, t.Context(), manyGateways(&g), genericiooptions.IOStreams{In: program, Out: io.Discard, ErrOut: program}, strings.Fields(c.line)...)
			_, _ = io.WriteString(program, "it ended")
		}()
		var said string
		if c.question != "" {
			said = until(t, user, "[y/N] ")
			must.Get(io.WriteString(user, c.answer))(t)
		}
		said += until(t, user, "it ended")
		<-done
		if code != c.code || len(g.commands) != c.changed || !strings.Contains(said, c.question) || strings.Contains(said, "[y/N]") != (c.question != "") {
			t.Errorf("%s, %q: exit code %d, %d pods changed, said %q", c.line, c.answer, code, len(g.commands), said)
		}
		if c.code == 1 && !strings.Contains(said, "not confirmed: nothing was changed") {
			t.Errorf("%s, %q: said %q", c.line, c.answer, said)
		}
	}
}

func TestConfirmationInterrupted(t *testing.T) {
	var g gatewayContainers
	user, program := pty.Open(t)
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- runOn(t, ctx, manyGateways(&g), genericiooptions.IOStreams{In: program, Out: io.Discard, ErrOut: program}, "mode", "--all", "strict")
	}()
	until(t, user, "[y/N] ")
	interrupt()
	if got := <-code; got != 130 || len(g.commands) != 0 {
		t.Errorf("exit code %d, %q", got, g.commands)
	}
	// The reader that was left behind ends before its terminal does.
	_, _ = io.WriteString(user, "\n")
}
