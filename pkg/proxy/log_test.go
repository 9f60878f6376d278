//go:build linux

package proxy

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

// stuckWriter blocks until it is released.
type stuckWriter struct {
	lineBuffer
	entered chan struct{}
	release chan struct{}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	select {
	case w.entered <- struct{}{}:
	default:
	}
	<-w.release
	return w.lineBuffer.Write(p)
}

func TestLogNeverBlocks(t *testing.T) {
	w := &stuckWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	l := NewLogger(w, new(journal.Budget), journal.NewSpool(nil))
	l.Slog().Info("first")
	<-w.entered
	// The writer is stuck; several times what the queue holds is logged.
	const count = 20_000
	for range count {
		l.Connection(&api.Connection{Direction: api.Outbound})
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close with a stuck writer: %v", err)
	}
	close(w.release)
	long, cancel := context.WithTimeout(t.Context(), patienceForTests)
	defer cancel()
	if err := l.Close(long); err != nil {
		t.Fatal(err)
	}
	written := len(w.connections(t))
	if written == 0 || written == count {
		t.Fatalf("%d of %d lines were written", written, count)
	}
	var last struct {
		Message string `json:"msg"`
		Lines   int    `json:"lines"`
	}
	lines := bytes.Split(bytes.TrimSpace(w.lines), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
		t.Fatal(err)
	}
	if last.Message != "log lines dropped" || last.Lines != count-written {
		t.Errorf("the last line is %s, want %d lines dropped", lines[len(lines)-1], count-written)
	}
}

func TestLogLines(t *testing.T) {
	var b lineBuffer
	l := NewLogger(&b, new(journal.Budget), journal.NewSpool(nil))
	l.Slog().Info("hello", "answer", 42)
	want := api.Connection{Direction: api.Inbound, Sent: 3}
	l.Connection(&want)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b.lines), `"msg":"hello","answer":42`) {
		t.Errorf("log: %s", b.lines)
	}
	got := b.connections(t)
	if len(got) != 1 || got[0].Message != api.ConnectionMessage || got[0].Level != "INFO" || got[0].Time.IsZero() || got[0].Sent != 3 {
		t.Errorf("log: %+v", got)
	}
}

// TestCountersOutliveTheirProxy: totals go on in the next one, whose start changes nothing of what another one counts meanwhile.
func TestCountersOutliveTheirProxy(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	destination := application(t, server.ip, echo)
	var counters traffic.Counters
	for worker := range uint64(2) {
		counters.Of(traffic.Outbound).Active.Add(7)
		client := newPod(t, a, func(o *Options) { o.Counters = &counters })
		conn := client.dial(destination)
		exchange(t, conn, "hello")
		if got := counters.Traffic().Outbound; got.Active != 8 || got.Encrypted != worker+1 {
			t.Errorf("worker %d: counted %+v", worker, got)
		}
		client.stop()
		counters.ResetActive()
	}
	if got := counters.Traffic().Outbound; got.Sent != 10 || got.Received != 10 {
		t.Errorf("counted %+v", got)
	}
}

// TestLogTextsAreBounded: no text of a line is longer than its bound, whatever strangers put into
// certificates.
func TestLogTextsAreBounded(t *testing.T) {
	var c api.Connection
	long := strings.Repeat("ü", maxLogText)
	for _, value := range []reflect.Value{reflect.ValueOf(&c).Elem(), reflect.ValueOf(&c.TLS).Elem()} {
		for i := range value.NumField() {
			if value.Field(i).Kind() == reflect.String {
				value.Field(i).SetString(long)
			}
		}
	}
	c.Message = "" // only this one finds the line again
	w := &lineBuffer{}
	l := NewLogger(w, new(journal.Budget), journal.NewSpool(nil))
	l.Connection(&c)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.lines); n > 10*maxLogText {
		t.Errorf("the line has %d bytes", n)
	}
	for _, logged := range w.connections(t) {
		if !utf8.ValidString(logged.Error) || !strings.HasSuffix(logged.Error, "ü…") || len(logged.Error) > maxLogText {
			t.Errorf("the error is %d bytes: …%q", len(logged.Error), logged.Error[len(logged.Error)-10:])
		}
	}
	if short := "identity is not allowed"; bounded(short) != short || bounded(long[:maxLogText]) != long[:maxLogText] {
		t.Error("a text that fits is changed")
	}
}

// TestHugeCertificate: a stranger's certificate of 200 KB makes a line of usual length.
func TestHugeCertificate(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	key := pki.ECKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Opaque: "//" + strings.Repeat("%zz", 70_000)}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}
	conn := tls.Client(s.dial(server), s.config)
	_ = conn.Handshake() // the refusal comes after it
	_, _ = io.Copy(io.Discard, conn)
	line := server.logged("the stranger", func(c api.Connection) bool { return c.Reason == traffic.NoHandshake.String() })
	if !strings.Contains(line.Error, "%zz") || len(line.Error) > maxLogText {
		t.Errorf("the error has %d bytes: %.200s", len(line.Error), line.Error)
	}
}
