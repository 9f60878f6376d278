//go:build linux

package journal

import (
	"bytes"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

const (
	// reportEvery is the least time between two lines that count those which were dropped.
	reportEvery = time.Minute
	// reportAfter is how long lines are counted before the first such line.
	reportAfter = time.Second
	// reportExhausted is the same once nothing but these lines is left to be written.
	reportExhausted = time.Hour
)

// Ledger numbers the lines that its budget has room for, and accounts for the others. The caller
// has a lock.
type Ledger struct {
	budget *Budget
	by     string
	// now is a clock that never goes back.
	now func() time.Duration
	// due is called, without the lock, when Report has a line.
	due func()
	// lost counts the lines since the last report.
	lost      uint64
	lostBytes int
	reported  time.Duration
	waiting   bool
}

// NewLedger returns a Ledger of the lines that by writes; empty is a worker. due is called when
// Report has something to say.
func NewLedger(budget *Budget, by string, due func()) *Ledger {
	return &Ledger{budget: budget, by: by, now: monotonic(), due: due, reported: -reportExhausted}
}

// Admit returns a line, which is a JSON object with its newline, with its number. It reports false
// for one that is not to be written.
func (l *Ledger) Admit(class Class, line []byte) ([]byte, bool) {
	number, ok := l.budget.Spend(class, len(line), l.now())
	if !ok {
		l.lose(len(line))
		return nil, false
	}
	return l.numbered(line, number), true
}

// Drop accounts for a line that is not to be written.
func (l *Ledger) Drop(line []byte) {
	l.budget.Drop(len(line))
	l.lose(len(line))
}

func (l *Ledger) lose(size int) {
	l.lost++
	l.lostBytes += size
	if !l.waiting {
		l.waiting = true
		time.AfterFunc(max(reportAfter, l.reported+l.interval()-l.now()), l.due)
	}
}

func (l *Ledger) interval() time.Duration {
	if l.budget.exhausted() {
		return reportExhausted
	}
	return reportEvery
}

// Report returns the line that counts what was dropped since the last one, nil if none is due. The
// last one of all is due at once.
func (l *Ledger) Report(last bool) []byte {
	if l.lost == 0 || !last && l.now() < l.reported+l.interval() {
		return nil
	}
	var line bytes.Buffer
	slog.New(slog.NewJSONHandler(&line, nil)).Warn(api.LinesDroppedMessage, "lines", l.lost, "bytes", l.lostBytes)
	number, ok := l.budget.Spend(State, line.Len(), l.now())
	l.reported, l.waiting = l.now(), false
	if !ok {
		// The next line that is dropped asks for the report again.
		return nil
	}
	l.lost, l.lostBytes = 0, 0
	return l.numbered(line.Bytes(), number)
}

// NumberSize is how many bytes at most a line grows by its number and its writer.
const NumberSize = 64

// numbered adds the number at the end of a JSON object.
func (l *Ledger) numbered(line []byte, number uint64) []byte {
	line = bytes.TrimSuffix(line, []byte("}\n"))
	if l.by != "" {
		line = append(line, `,"`+api.LogBy+`":"`+l.by+`"`...)
	}
	line = append(line, `,"`+api.LogNumber+`":`...)
	return append(strconv.AppendUint(line, number, 10), "}\n"...)
}

// monotonic returns a clock of the time since the machine started, which all processes share. Go's own runs at the same rate, and
// takes no system call.
func monotonic() func() time.Duration {
	var now unix.Timespec
	// It cannot fail.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	start := time.Now()
	return func() time.Duration { return time.Duration(now.Nano()) + time.Since(start) }
}
