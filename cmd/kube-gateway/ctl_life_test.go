//go:build linux

package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestInput: what does not come as one line of JSON never reaches the gateway.
func TestInput(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "the input ended before the line did",
		`{"bundle":"x"}`:            "the input ended before the line did",
		"\n":                        "reading the trust bundle",
		"hello\n":                   "reading the trust bundle",
		`{"bundle":1}` + "\n":       "reading the trust bundle",
		strings.Repeat("x", 1<<20):  "longer than",
		`{"bundle":"x"}` + "\nmore": "reaching the gateway",
	} {
		var stdout, stderr bytes.Buffer
		code := run([]string{"ctl", "trust", "--control-socket", t.TempDir() + "/none"}, strings.NewReader(text), &stdout, &stderr)
		if code != 1 || stdout.Len() != 0 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%.20q: exit code %d, %q, %q", text, code, stdout.String(), stderr.String())
		}
	}
}

// TestInterruptedInput: a command whose input never comes ends when it is told to.
func TestInterruptedInput(t *testing.T) {
	stdin, open := io.Pipe()
	defer open.Close()
	ended := make(chan string, 1)
	go func() {
		var stderr bytes.Buffer
		run([]string{"ctl", "trust"}, stdin, io.Discard, &stderr)
		ended <- stderr.String()
	}()
	// The command reads once it can be interrupted.
	if _, err := open.Write([]byte("{")); err != nil {
		t.Fatal(err)
	}
	must.Do(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	select {
	case text := <-ended:
		if !strings.Contains(text, "reading the trust bundle") {
			t.Errorf("it says %q", text)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("line\nmore"))
	f.Add([]byte("no end"))
	f.Fuzz(func(t *testing.T, text []byte) {
		const limit = 16
		line, err := readLine(bytes.NewReader(text), limit)
		end := bytes.IndexByte(text, '\n') + 1
		if ok := end > 0 && end <= limit; ok != (err == nil) || ok && !bytes.Equal(line, text[:end]) {
			t.Fatalf("%q: %q, %v", text, line, err)
		}
	})
}
