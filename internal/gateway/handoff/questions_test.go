//go:build linux

package handoff

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// asking is the exporter's end of a socket, and the supervisor that answers there.
type asking struct {
	conn *net.UnixConn
	// ended gets what the supervisor ends with.
	ended chan error
}

func askOf(t *testing.T, read func() *api.Status) *asking {
	t.Helper()
	ours, theirs := pair(t)
	a := &asking{theirs, make(chan error, 1)}
	go func() { a.ended <- newQuestions(ours).Answer(t.Context(), read) }()
	return a
}

func (a *asking) ask(t *testing.T) string {
	t.Helper()
	if _, err := a.conn.Write([]byte{question}); err != nil {
		t.Fatal(err)
	}
	return a.listen(t)
}

func (a *asking) listen(t *testing.T) string {
	t.Helper()
	b := make([]byte, 1<<20)
	a.conn.SetReadDeadline(time.Now().Add(time.Minute))
	n := must.Get(a.conn.Read(b))(t)
	return string(b[:n])
}

func (a *asking) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-a.ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
		return nil
	}
}

// TestQuestions: a question is answered by a status without what is in no metric, or by
// none, and the end of the other end is no error.
func TestQuestions(t *testing.T) {
	st := &api.Status{State: api.Ready, Pod: api.PodRef{Name: "secret"}, Capture: api.Capture{CaptureCounts: api.CaptureCounts{Captured: 7}}}
	a := askOf(t, func() *api.Status { return st })
	var answer struct{ Status *api.Status }
	if text := a.ask(t); json.Unmarshal([]byte(text), &answer) != nil || answer.Status.Capture.Captured != 7 || strings.Contains(text, "secret") {
		t.Errorf("the answer is %s", text)
	}
	st = nil
	if text := a.ask(t); text != "{}" {
		t.Errorf("without a status the answer is %s", text)
	}
	a.conn.Close()
	if err := a.end(t); err != nil {
		t.Error(err)
	}
}

// TestNoQuestion: whoever asks for something else is not answered.
func TestNoQuestion(t *testing.T) {
	for _, words := range []string{"x", "ss", "\x00", `{"op":"disable"}`, strings.Repeat("s", 100_000)} {
		a := askOf(t, func() *api.Status { t.Error("a status is read"); return nil })
		if _, err := a.conn.Write([]byte(words)); err != nil {
			t.Fatal(err)
		}
		if err := a.end(t); err == nil {
			t.Errorf("%.20q is no error", words)
		}
	}
}

// TestQuestionWithFile: a file that comes with a question goes nowhere.
func TestQuestionWithFile(t *testing.T) {
	a := askOf(t, func() *api.Status { return nil })
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if _, _, err := a.conn.WriteMsgUnix([]byte{question}, unix.UnixRights(int(write.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	write.Close()
	if text := a.listen(t); text != "{}" {
		t.Errorf("the answer is %s", text)
	}
	// The pipe ends when nobody has its other end.
	read.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := read.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("somebody has the file: %v", err)
	}
}

// TestQuestionsAreBounded: after a few at once there is an answer an interval, however
// many questions wait.
func TestQuestionsAreBounded(t *testing.T) {
	reads := 0
	a := askOf(t, func() *api.Status { reads++; return nil })
	const more = 2
	start := time.Now()
	go func() {
		_, _ = a.conn.Write([]byte{question})
		for range answerBurst + more - 1 {
			_, _ = a.conn.Write([]byte{question})
		}
	}()
	for range answerBurst + more {
		a.listen(t)
	}
	// Never sooner; how much later is the machine's affair.
	if elapsed := time.Since(start); elapsed < more*answerInterval-100*time.Millisecond {
		t.Errorf("%d answers within %v", reads, elapsed)
	}
}

// TestDeafExporter: one that asks and does not read holds nobody up for ever.
func TestDeafExporter(t *testing.T) {
	st := &api.Status{Identity: strings.Repeat("x", 1000)}
	ours, theirs := pair(t)
	// The kernel makes it a few KiB: no answer is too long for it, and some fill it.
	must.Do(t, ours.SetWriteBuffer(1))
	for range answerBurst {
		if _, err := theirs.Write([]byte{question}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	context.AfterFunc(ctx, func() { ours.Close() })
	if err := newQuestions(ours).Answer(ctx, func() *api.Status { return st }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}

// FuzzQuestion: nothing but the question is answered.
func FuzzQuestion(f *testing.F) {
	for _, words := range []string{"s", "ss", "", "x", "s\n"} {
		f.Add([]byte(words))
	}
	f.Fuzz(func(t *testing.T, words []byte) {
		if len(words) == 0 || len(words) > 10_000 {
			return // the end of the connection, and more than a packet holds
		}
		a := askOf(t, func() *api.Status { return nil })
		if _, err := a.conn.Write(words); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(words, []byte{question}) {
			a.listen(t)
			return
		}
		if err := a.end(t); err == nil {
			t.Errorf("%q is no error", words)
		}
	})
}
