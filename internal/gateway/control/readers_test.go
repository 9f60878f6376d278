package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// readers serves readers with handle, without TLS, and returns their address.
func readers(t testing.TB, secure func(context.Context, net.Conn) (net.Conn, error), handle Handler) string {
	t.Helper()
	ln := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- ServeReaders(ctx, ln, secure, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return ln.Addr().String()
}

func plain(_ context.Context, conn net.Conn) (net.Conn, error) { return conn, nil }

// told sends text and returns what is answered.
func told(t testing.TB, address, text string) string {
	t.Helper()
	conn := must.Get(net.Dial("tcp", address))(t)
	defer conn.Close()
	// The server may hang up before everything is written.
	go io.WriteString(conn, text)
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return line
}

// TestReaders: a reader gets the status, and can do nothing else.
func TestReaders(t *testing.T) {
	var asked []Request
	address := readers(t, plain, func(_ context.Context, r Request) (any, error) {
		asked = append(asked, r)
		return "fine", nil
	})
	for text, want := range map[string]string{
		`{"op":"status","wait":1,"mode":"strict","everyone":true}`:       `"fine"`,
		`{"op":"mode","mode":"permissive"}`:                              errReadOnly.Error(),
		`{"op":"disable"}`:                                               errReadOnly.Error(),
		`{"op":"csr"}`:                                                   errReadOnly.Error(),
		`{"op":"inherited"}`:                                             errReadOnly.Error(),
		`{"op":"status","wait":600000000001}`:                            errReadOnly.Error(),
		`{"op":"status","control":"` + strings.Repeat("x", 4<<10) + `"}`: "",
		`{}`: errReadOnly.Error(),
		`no`: "parsing a message",
	} {
		if got := told(t, address, text+"\n"); !strings.Contains(got, want) {
			t.Errorf("%.60s was answered with %q, want %q", text, got, want)
		}
	}
	if len(asked) != 1 || asked[0].Op != OpStatus || asked[0].Wait != 1 || asked[0].Mode != "" || asked[0].Everyone {
		t.Errorf("the gateway was asked %+v", asked)
	}
}

// TestReadersAreFew: who comes when all places are taken is sent away, and a place becomes free again.
func TestReadersAreFew(t *testing.T) {
	waiting, goOn := make(chan struct{}), make(chan struct{})
	address := readers(t, plain, func(context.Context, Request) (any, error) {
		waiting <- struct{}{}
		<-goOn
		return "fine", nil
	})
	answers := make(chan string)
	for range maxReaders {
		go func() { answers <- told(t, address, `{"op":"status"}`+"\n") }()
		<-waiting
	}
	if got := told(t, address, `{"op":"status"}`+"\n"); got != "" {
		t.Errorf("one more was answered with %q", got)
	}
	close(goOn)
	for range maxReaders {
		if got := <-answers; !strings.Contains(got, "fine") {
			t.Errorf("one was answered with %q", got)
		}
	}
	go func() { <-waiting }()
	for deadline := time.Now().Add(time.Minute); ; {
		if strings.Contains(told(t, address, `{"op":"status"}`+"\n"), "fine") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no place became free")
		}
	}
}

// TestReadersAreChecked: nothing is read from a connection that is not secured.
func TestReadersAreChecked(t *testing.T) {
	address := readers(t, func(context.Context, net.Conn) (net.Conn, error) { return nil, errors.New("no") },
		func(context.Context, Request) (any, error) { return "fine", nil })
	if got := told(t, address, `{"op":"status"}`+"\n"); got != "" {
		t.Errorf("it was answered with %q", got)
	}
}

// FuzzReader: whatever a reader says, it gets one line of JSON, and nothing but the status is asked for.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{`{"op":"status"}`, `{"op":"disable"}`, `{"Op":"status","OP":"mode"}`, `{"op":"status","wait":-1}`, "{", ""} {
		f.Add(seed)
	}
	address := readers(f, plain, func(_ context.Context, r Request) (any, error) {
		if r.Op != OpStatus || r.Wait > maxReaderWait || r.Mode != "" || r.Issued != nil || r.Handover != nil {
			f.Errorf("the gateway was asked %+v", r)
		}
		return "fine", nil
	})
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) >= maxQuestion {
			return // its sender may be cut off before the answer
		}
		line := told(t, address, text+"\n")
		var answer response
		if err := json.Unmarshal([]byte(line), &answer); err != nil || (answer.Error == "") != (string(answer.Result) == `"fine"`) {
			t.Errorf("%q was answered with %q: %v", text, line, err)
		}
	})
}
