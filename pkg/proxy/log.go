//go:build linux

package proxy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// logInterval is the least time between two batches of lines, of which each wakes the thread that maxSpent is about. What is logged meanwhile is in the spool, which a
// supervisor writes if this process dies.
const logInterval = 50 * time.Millisecond

// Logger writes JSON lines to a writer that may be slow. Logging only appends to a bounded
// spool, which one goroutine writes. Lines that find it full, or no room in the budget, are
// dropped and counted, and a line of its own reports the count.
type Logger struct {
	w       io.Writer
	budget  *journal.Budget
	slog    *slog.Logger
	wake    chan struct{}
	closing chan struct{}
	stopped chan struct{}
	// wrote is called after each batch, unless it is nil.
	wrote atomic.Pointer[func()]

	mu     sync.Mutex
	spool  *journal.Spool
	ledger *journal.Ledger
	closed bool
}

// NewLogger starts a Logger that writes to w by way of spool, as much as budget allows. Close ends it.
func NewLogger(w io.Writer, budget *journal.Budget, spool *journal.Spool) *Logger {
	l := &Logger{w: w, budget: budget, wake: make(chan struct{}, 1), closing: make(chan struct{}), stopped: make(chan struct{}), spool: spool}
	l.slog = slog.New(slog.NewJSONHandler(queueWriter{l}, nil))
	l.ledger = journal.NewLedger(budget, "", l.signal)
	go l.run()
	return l
}

// Slog returns a structured logger for lines other than those of connections.
func (l *Logger) Slog() *slog.Logger { return l.slog }

// Connection logs the end of a connection, unless the level leaves it out. Time, Level and Message
// are filled in where they are empty.
func (l *Logger) Connection(c *api.Connection) {
	class := journal.Ordinary
	if c.Level == slog.LevelWarn.String() || strings.Contains(c.Reason, traffic.Audited.String()) {
		class = journal.Refusal
	}
	if !l.budget.Wants(class) {
		return
	}
	if c.Time.IsZero() {
		c.Time = time.Now()
	}
	c.Level = cmp.Or(c.Level, slog.LevelInfo.String())
	c.Message = cmp.Or(c.Message, api.ConnectionMessage)
	for _, text := range []*string{
		&c.Level, &c.Message, &c.Direction, &c.Peer, &c.Wire, &c.Reason, &c.Error,
		&c.TLS.Version, &c.TLS.KeyExchange, &c.TLS.Cipher,
	} {
		*text = bounded(*text)
	}
	l.enqueue(class, appendLine(make([]byte, 0, 512+journal.NumberSize), c))
}

// maxLogText bounds each text of a connection's line, in bytes. An identity has at most 800;
// what strangers send in certificates has no other bound.
const maxLogText = 1 << 10

// bounded returns text, or its beginning with an ellipsis.
func bounded(text string) string {
	if len(text) <= maxLogText {
		return text
	}
	end := maxLogText - len("…")
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// Close writes the queue and ends the Logger; later lines are dropped. It returns ctx's error
// if ctx is done first.
func (l *Logger) Close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.closing)
	}
	l.mu.Unlock()
	l.signal()
	select {
	case <-l.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("writing the last log lines: %w", ctx.Err())
	}
}

func (l *Logger) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// enqueue appends one complete line.
func (l *Logger) enqueue(class journal.Class, line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.spool.Fits(len(line)+journal.NumberSize) {
		l.ledger.Drop(line)
		return
	}
	if made, ok := l.ledger.Admit(class, line); ok {
		l.spool.Add(made)
		l.signal()
	}
}

// run is the only place that writes to l.w.
func (l *Logger) run() {
	defer close(l.stopped)
	for range l.wake {
		l.mu.Lock()
		closed := l.closed
		batch, report := l.spool.Take(), l.ledger.Report(closed)
		l.mu.Unlock()
		batch.Write(l.write)
		l.write(report)
		if wrote := l.wrote.Load(); wrote != nil {
			(*wrote)()
		}
		if closed {
			return
		}
		select {
		case <-time.After(logInterval):
		case <-l.closing:
		}
	}
}

func (l *Logger) write(lines []byte) {
	if len(lines) > 0 {
		// Errors of the log itself cannot be logged.
		_, _ = l.w.Write(lines)
	}
}

// queueWriter queues lines of slog, which writes one in each call.
type queueWriter struct{ l *Logger }

func (q queueWriter) Write(line []byte) (int, error) {
	q.l.enqueue(journal.State, line)
	return len(line), nil
}
