package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// executor runs commands in the pods of one cluster.
type executor struct {
	config *rest.Config
	kube   kubernetes.Interface
}

// stderrLimit bounds how much of a failed command's last words is kept, in bytes.
const stderrLimit = 4 << 10

// Run is part of Runner.
func (c *executor) Run(ctx context.Context, ref Ref, stdin io.Reader, stdout io.Writer, command ...string) error {
	what := ref.pod()
	// Only the WebSocket's error has the server's answer as a status; what the older
	// protocol reports is text.
	var refused error
	options := &corev1.PodExecOptions{Container: ref.Container, Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true}
	stream, err := c.open(ref, options, &refused)
	if err != nil {
		return fmt.Errorf("preparing to run a command in %s: %w", what, err)
	}
	// When ctx ends, the library leaves goroutines behind that may write on.
	lastWords := &head{limit: stderrLimit}
	outGate, errGate := &gate{to: cmp.Or(stdout, io.Discard)}, &gate{to: lastWords}
	err = stream.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: outGate, Stderr: errGate})
	outGate.close()
	errGate.close()
	var exit utilexec.CodeExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("running %s in %s: %w", command[0], what, context.Cause(ctx))
	case errors.As(err, &exit):
		return &ExitError{Command: command[0], Code: exit.Code, Stderr: lastWords.String()}
	}
	return c.explain(ctx, ref, refused, err)
}

// open prefers WebSockets and falls back to SPDY, as kubectl does: servers
// before 1.30 and some proxies know SPDY only. The fallback is also needed
// after "forbidden", because the two are different verbs (get, create) to RBAC.
// refused becomes why the server refused a WebSocket.
func (c *executor) open(ref Ref, options *corev1.PodExecOptions, refused *error) (remotecommand.Executor, error) {
	target := c.kube.CoreV1().RESTClient().Post().
		Resource("pods").Namespace(ref.Namespace).Name(ref.Pod).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec).URL()
	websocket, err := remotecommand.NewWebSocketExecutor(c.config, "GET", target.String())
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(websocket, &lazySPDY{c.config, target}, func(err error) bool {
		if httpstream.IsUpgradeFailure(err) {
			*refused = err
			return true
		}
		return httpstream.IsHTTPSProxyError(err)
	})
}

// lazySPDY is prepared when it is needed: that costs as much as a small command.
type lazySPDY struct {
	config *rest.Config
	target *url.URL
}

func (l *lazySPDY) Stream(options remotecommand.StreamOptions) error {
	return l.StreamWithContext(context.Background(), options)
}

func (l *lazySPDY) StreamWithContext(ctx context.Context, options remotecommand.StreamOptions) error {
	spdy, err := remotecommand.NewSPDYExecutor(l.config, "POST", l.target)
	if err != nil {
		return err
	}
	return spdy.StreamWithContext(ctx, options)
}

// gate passes writes on until it is closed, and swallows them from then on.
type gate struct {
	mu sync.Mutex
	to io.Writer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.to == nil {
		return len(p), nil
	}
	return g.to.Write(p)
}

// close returns once no write is under way.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to = nil
}

// head keeps the first limit bytes written to it and drops the rest.
type head struct {
	limit int
	data  []byte
	// full is called once when something had to be dropped.
	full func()
}

// Write never fails: an error would make the streams' library log on its own.
func (h *head) Write(p []byte) (int, error) {
	room := h.limit - len(h.data)
	if len(p) <= room {
		h.data = append(h.data, p...)
		return len(p), nil
	}
	h.data = append(h.data, p[:room]...)
	if h.full != nil {
		h.full()
		h.full = nil
	}
	return len(p), nil
}

func (h *head) String() string { return string(h.data) }
