package remote

import (
	"context"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// Client runs commands in pods of one cluster. It is safe for concurrent use.
type Client struct {
	Config *rest.Config
	Kube   kubernetes.Interface
}

// stderrLimit bounds how much of a failed command's last words is kept, in bytes.
const stderrLimit = 4 << 10

// Exec runs command in a container until it ends or ctx does. Streams may be
// nil; nothing is written to them after Exec has returned. The error is nil if the command ended with exit code 0. Otherwise it is
// *ExitError if the command ended with another one, and wraps ErrForbidden,
// ErrPodGone or ErrNotRunning if that is why it did not run at all.
func (c *Client) Exec(ctx context.Context, namespace, pod, container string, stdin io.Reader, stdout, stderr io.Writer, command ...string) error {
	lastWords := &head{limit: stderrLimit}
	// Without both output streams the last words would be lost.
	var errOut io.Writer = lastWords
	if stderr != nil {
		errOut = io.MultiWriter(stderr, lastWords)
	}
	if stdout == nil {
		stdout = io.Discard
	}
	executor, handshake, err := c.executor(namespace, pod, &corev1.PodExecOptions{
		Container: container,
		Command:   command,
		Stdin:     stdin != nil,
		Stdout:    true,
		Stderr:    true,
	})
	if err != nil {
		return fmt.Errorf("preparing to run a command in pod %s/%s: %w", namespace, pod, err)
	}
	// When ctx ends, the library leaves goroutines behind that may write on.
	outGate, errGate := &gate{to: stdout}, &gate{to: errOut}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: outGate, Stderr: errGate})
	outGate.close()
	errGate.close()
	var exit utilexec.CodeExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("running %s in pod %s/%s: %w", command[0], namespace, pod, context.Cause(ctx))
	case errors.As(err, &exit):
		return &ExitError{Command: command[0], Code: exit.Code, Stderr: lastWords.String()}
	}
	return c.explain(ctx, namespace, pod, container, handshake.err, err)
}

// upgradeFailure keeps why the server refused a WebSocket. Only that error has
// the server's answer as a status; what the older protocol reports is text.
type upgradeFailure struct{ err error }

// executor prefers WebSockets and falls back to SPDY, as kubectl does: servers
// before 1.30 and some proxies know SPDY only. The fallback is also needed
// after "forbidden", because the two are different verbs (get, create) to RBAC.
func (c *Client) executor(namespace, pod string, options *corev1.PodExecOptions) (remotecommand.Executor, *upgradeFailure, error) {
	target := c.Kube.CoreV1().RESTClient().Post().
		Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec).URL()
	spdy, err := remotecommand.NewSPDYExecutor(c.Config, "POST", target)
	if err != nil {
		return nil, nil, err
	}
	websocket, err := remotecommand.NewWebSocketExecutor(c.Config, "GET", target.String())
	if err != nil {
		return nil, nil, err
	}
	var handshake upgradeFailure
	executor, err := remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		if httpstream.IsUpgradeFailure(err) {
			handshake.err = err
			return true
		}
		return httpstream.IsHTTPSProxyError(err)
	})
	return executor, &handshake, err
}
