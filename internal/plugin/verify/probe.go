package verify

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// Bounds of what a probe may say.
const (
	maxEvents    = 16
	maxEventLine = 4096
	// stopTimeout bounds the wait for the end of a probe.
	stopTimeout = 5 * time.Second
)

// probe is a connection, or a listener, in a pod.
type probe struct {
	gateway remote.Ref
	// events is closed when the probe has ended.
	events chan api.ProbeEvent
	stdin  *io.PipeWriter
	cancel context.CancelFunc

	mu  sync.Mutex
	err error
}

// startProbe runs a probe with text as its input. It ends with stop, or with ctx.
func startProbe(ctx context.Context, g *remote.Conn, verb, address, text string) (*probe, error) {
	ctx, cancel := context.WithCancel(ctx)
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	p := &probe{gateway: g.Ref(), events: make(chan api.ProbeEvent, maxEvents), stdin: stdin, cancel: cancel}
	context.AfterFunc(ctx, func() { stdin.Close() })
	go func() {
		if err := g.Run(ctx, in, out, "probe", verb, address); err != nil {
			p.fail(err)
		}
		in.Close()
		out.Close()
	}()
	go func() {
		defer close(p.events)
		defer stdout.Close()
		p.read(stdout)
	}()
	if text == "" {
		return p, nil
	}
	if _, err := io.WriteString(stdin, text); err != nil {
		p.stop()
		return nil, cmp.Or(p.failure(), err)
	}
	return p, nil
}

func (p *probe) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEventLine)
	for n := 0; n < maxEvents && lines.Scan(); n++ {
		event, err := parseEvent(lines.Bytes())
		if err != nil {
			p.fail(err)
			return
		}
		p.events <- event
	}
}

func parseEvent(line []byte) (api.ProbeEvent, error) {
	var event api.ProbeEvent
	if err := json.Unmarshal(line, &event); err != nil {
		return event, fmt.Errorf("reading its answer: %w", err)
	}
	if event.Event == "" {
		return event, errors.New("reading its answer: it is not an event")
	}
	return event, nil
}

// next waits for the next event.
func (p *probe) next(ctx context.Context) (api.ProbeEvent, error) {
	select {
	case event, ok := <-p.events:
		if ok {
			return event, nil
		}
		if err := p.failure(); err != nil {
			return event, err
		}
		return event, fmt.Errorf("the probe in pod %s/%s ended", p.gateway.Namespace, p.gateway.Pod)
	case <-ctx.Done():
		return api.ProbeEvent{}, context.Cause(ctx)
	}
}

// fail notes why the probe cannot go on. The first reason counts.
func (p *probe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = fmt.Errorf("running a probe in pod %s/%s: %w", p.gateway.Namespace, p.gateway.Pod, err)
	}
}

// failure returns why the probe could not run, nil if it could.
func (p *probe) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// stop asks the probe to end, and waits until it has. It can be called again.
func (p *probe) stop() {
	p.stdin.Close()
	defer time.AfterFunc(stopTimeout, p.cancel).Stop()
	for range p.events {
	}
	p.cancel()
}

// Bounds of what is read of a log.
const (
	maxLines   = 10000
	maxLogLine = 64 << 10
	maxLog     = 64 << 20
)

// readLog reads the log of a gateway from the API server.
func readLog(ctx context.Context, client kubernetes.Interface, g remote.Ref, since time.Duration) ([]api.Connection, error) {
	stream, err := client.CoreV1().Pods(g.Namespace).GetLogs(g.Pod, &corev1.PodLogOptions{
		Container: g.Container, SinceSeconds: new(int64(since.Seconds()) + 2), TailLines: new(int64(maxLines)),
	}).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the log of pod %s/%s: %w", g.Namespace, g.Pod, err)
	}
	defer stream.Close()
	return parseLog(io.LimitReader(stream, maxLog)), nil
}

// parseLog returns the connections in a log. It skips other lines.
func parseLog(r io.Reader) []api.Connection {
	var found []api.Connection
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		var c api.Connection
		if err := json.Unmarshal(lines.Bytes(), &c); err == nil && c.Message == api.ConnectionMessage {
			found = append(found, c)
		}
	}
	return found
}
