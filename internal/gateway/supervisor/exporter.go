//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/exporter"
)

// Metrics over TCP are served by a process of its own, and only if somebody asked for
// a port: the supervisor has all privileges, the worker the key, and neither should
// parse what strangers send to such a port.

// File descriptors of an exporter, in the order of exec.Cmd.ExtraFiles.
const (
	fdQuestions = 3 + iota
	fdMetrics
)

const (
	// statusInterval is the least time between two statuses for the exporter, except
	// for the first statusBurst of them: each is a look at all sockets of the pod, and
	// whoever reaches the port may cause it.
	statusInterval = time.Second
	statusBurst    = 4
	// answerTimeout bounds the writing of an answer, to a socket that has room for it.
	answerTimeout = 2 * time.Second
	// exporterGrace is how long an exporter may take to end.
	exporterGrace = 3 * time.Second
)

// listenMetrics opens the listener for metrics, nil if there is to be none. The empty
// address of addr is the dual-stack wildcard.
func listenMetrics(ctx context.Context, addr string) (*os.File, error) {
	if addr == "" {
		return nil, nil
	}
	at, err := api.ParseMetricsAddr(addr)
	if err != nil {
		return nil, err
	}
	address := ":" + strconv.Itoa(int(at.Port()))
	if at.Addr().IsValid() {
		address = at.String()
	}
	f, err := listen(ctx, address)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, api.WithHint(fmt.Errorf("serving metrics: %w", err),
			"a container of this pod uses the port, or another gateway still runs in the pod: give another one to --metrics-addr")
	case err != nil:
		return nil, fmt.Errorf("serving metrics: %w", err)
	}
	return f, nil
}

// startExporter keeps an exporter running on the listener until the function that it
// returns is called, which returns when exporter and listener are gone. Without a
// listener there is nothing to do.
func (s *supervisor) startExporter(listener *os.File) (stop func()) {
	if listener == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var keeping sync.WaitGroup
	keeping.Go(func() { s.keepExporter(ctx, listener) })
	return sync.OnceFunc(func() {
		cancel()
		keeping.Wait()
		listener.Close()
	})
}

// keepExporter runs one exporter after the other until ctx is done. Connections wait
// in the listener's backlog for the next. No traffic depends on any of this.
func (s *supervisor) keepExporter(ctx context.Context, listener *os.File) {
	var backoff backoff
	for {
		started := time.Now()
		err := s.runExporter(ctx, listener)
		if ctx.Err() != nil {
			return
		}
		s.Log.Error("the exporter of metrics ended and is started again", "error", err)
		if !backoff.pause(ctx, started) {
			return
		}
	}
}

// runExporter runs one exporter until it ends or ctx is done.
func (s *supervisor) runExporter(ctx context.Context, listener *os.File) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("creating the exporter's socket: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "supervisor")
	ours, err := unixConn(os.NewFile(uintptr(ends[0]), "exporter"))
	if err != nil {
		theirs.Close()
		return err
	}
	defer ours.Close()
	c, err := startChild("exporter", s.ExporterCommand, api.ExporterID, []*os.File{theirs, listener}, nil)
	theirs.Close()
	if err != nil {
		return err
	}
	questions := &questions{conn: ours, read: s.statusNow}
	answered := make(chan error, 1)
	go func() { answered <- questions.answer(ctx) }()
	select {
	case <-c.done:
		return c.reason()
	case err := <-answered:
		if err != nil {
			// It says what no exporter of ours says.
			return errors.Join(err, c.kill())
		}
	case <-ctx.Done():
	}
	// The end of the socket tells it to end.
	ours.Close()
	select {
	case <-c.done:
		return c.reason()
	case <-time.After(exporterGrace):
		return errors.Join(fmt.Errorf("the exporter did not end within %v", exporterGrace), c.kill())
	}
}

// statusNow is what a request for the status is answered with, nil if there is none.
func (s *supervisor) statusNow() *api.Status {
	st, _ := s.snapshot()
	status, err := s.withCounters(st)
	if err != nil {
		s.Log.Error("there is no status for the exporter of metrics", "error", err)
		return nil
	}
	return status
}

// questions is the supervisor's end of the socket to an exporter.
type questions struct {
	conn *net.UnixConn
	read func() *api.Status
	// spare is how many answers may be given at once, since is when it was true.
	spare int
	since time.Time
}

// answer answers one question after the other until ctx is done or the other end is
// closed, which are no errors.
func (q *questions) answer(ctx context.Context) error {
	q.spare, q.since = statusBurst, time.Now()
	for {
		// One byte more than a question has, to notice what is longer. Files that come
		// along are closed by the kernel, for want of a buffer for them.
		var b [2]byte
		n, err := q.conn.Read(b[:])
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("reading the exporter's question: %w", err)
		case n != 1 || b[0] != exporter.Question:
			return errors.New("the exporter asks for something else than a status")
		}
		if !q.afford(ctx) {
			return nil
		}
		packet, err := exporter.Answer(q.read())
		if err != nil {
			return err
		}
		if err := q.conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
			return fmt.Errorf("answering the exporter: %w", err)
		}
		_, err = q.conn.Write(packet)
		switch {
		case ctx.Err() != nil, errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("answering the exporter: %w", err)
		}
	}
}

// afford waits until there may be another answer. It returns false when ctx is done.
func (q *questions) afford(ctx context.Context) bool {
	if earned := int(time.Since(q.since) / statusInterval); earned > 0 {
		q.spare = min(q.spare+earned, statusBurst)
		q.since = q.since.Add(time.Duration(earned) * statusInterval)
	}
	if q.spare > 0 {
		q.spare--
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(q.since.Add(statusInterval))):
		q.since = q.since.Add(statusInterval)
		return true
	}
}

// ExporterFiles returns the listener and the socket for questions that an exporter
// finds in its file descriptors.
func ExporterFiles() (net.Listener, net.Conn, error) {
	unix.CloseOnExec(fdQuestions)
	unix.CloseOnExec(fdMetrics)
	conn, err := unixConn(os.NewFile(fdQuestions, "supervisor"))
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(fdMetrics, "listener for metrics")
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("taking over the %s: %w", f.Name(), err)
	}
	return ln, conn, nil
}
