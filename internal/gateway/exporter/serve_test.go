//go:build linux

package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"
)

// patience bounds every wait. It is no expectation.
const patience = 30 * time.Second

// gateway is the supervisor's end of an exporter, and the exporter.
type gateway struct {
	t    *testing.T
	conn net.Conn
	url  string
	// ended gets what Serve returns.
	ended chan error
}

func serve(t *testing.T) *gateway {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range ends {
		f := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, conn: conns[0], url: "http://" + ln.Addr().String(), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { g.ended <- Serve(ctx, ln, conns[1]) }()
	t.Cleanup(func() {
		cancel()
		g.conn.Close()
		select {
		case <-g.ended:
		case <-time.After(patience):
			t.Error("it serves still")
		}
	})
	return g
}

// asked waits for a question.
func (g *gateway) asked() {
	g.t.Helper()
	var b [2]byte
	g.conn.SetReadDeadline(time.Now().Add(patience))
	if n, err := g.conn.Read(b[:]); err != nil || n != 1 || b[0] != Question {
		g.t.Fatalf("asked %q, %v", b[:n], err)
	}
}

// answers answers every question, and counts them.
func (g *gateway) answers(count *atomic.Int64) {
	packet, err := Answer(status())
	if err != nil {
		g.t.Fatal(err)
	}
	go func() {
		var b [2]byte
		for {
			if _, err := g.conn.Read(b[:]); err != nil {
				return
			}
			count.Add(1)
			if _, err := g.conn.Write(packet); err != nil {
				return
			}
		}
	}()
}

func (g *gateway) request(method, path string, headers ...string) (*http.Response, string, error) {
	r, err := http.NewRequest(method, g.url+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: false}}
	defer client.CloseIdleConnections()
	response, err := client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode == http.StatusRequestHeaderFieldsTooLarge {
		err = nil // what was not read of the request resets the connection
	}
	return response, string(body), err
}

func TestScrape(t *testing.T) {
	g := serve(t)
	var asked atomic.Int64
	g.answers(&asked)
	for _, c := range []struct {
		accept, contentType, end string
	}{
		{"", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "\n"},
		{"application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores", "# EOF\n"},
	} {
		response, body, err := g.request("GET", Path, "Accept", c.accept, "Accept-Encoding", "gzip")
		if err != nil || response.StatusCode != 200 || response.Header.Get("Content-Type") != c.contentType || !strings.HasSuffix(body, c.end) {
			t.Fatalf("%q: %v, %v", c.accept, response, err)
		}
		if response.Header.Get("Content-Encoding") != "" || !response.Close {
			t.Errorf("%q: %v", c.accept, response)
		}
		if !strings.Contains(body, `kube_gateway_connections_total{direction="outbound",result="encrypted"} 7`) &&
			!strings.Contains(body, `kube_gateway_connections_total{direction="outbound",result="encrypted"} 7.0`) {
			t.Errorf("%s", body)
		}
		if c.accept != "" {
			continue
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		if _, err := parser.TextToMetricFamilies(strings.NewReader(body)); err != nil {
			t.Error(err)
		}
	}
	if response, body, err := g.request("HEAD", Path); err != nil || response.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %v, %q, %v", response, body, err)
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("%d questions", n)
	}
}

// TestNothingElse: other paths and methods, and requests that are too long, are turned
// away without a question.
func TestNothingElse(t *testing.T) {
	g := serve(t)
	var asked atomic.Int64
	g.answers(&asked)
	for _, c := range []struct {
		method, path string
		code         int
		headers      []string
	}{
		{"GET", "/", 404, nil}, {"GET", "/metrics/", 404, nil}, {"GET", "/debug/pprof/", 404, nil},
		{"POST", Path, 405, nil}, {"PUT", Path, 405, nil}, {"DELETE", Path, 405, nil}, {"OPTIONS", Path, 405, nil},
		{"GET", Path, 431, []string{"X-Long", strings.Repeat("x", maxHeader+4096)}},
	} {
		if response, _, err := g.request(c.method, c.path, c.headers...); err != nil || response.StatusCode != c.code {
			t.Errorf("%s %s: %v, %v", c.method, c.path, response, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d questions", n)
	}
	if response, _, err := g.request("GET", Path); err != nil || response.StatusCode != 200 {
		t.Errorf("afterwards: %v, %v", response, err)
	}
}

// TestScrapesAtOnce: scrapes that come while a question is under way share its answer.
func TestScrapesAtOnce(t *testing.T) {
	g := serve(t)
	const scrapes = 2 * maxConnections
	var done sync.WaitGroup
	var good atomic.Int64
	for range scrapes {
		done.Go(func() {
			if response, _, err := g.request("GET", Path); err == nil && response.StatusCode == 200 {
				good.Add(1)
			} else {
				t.Errorf("%v, %v", response, err)
			}
		})
	}
	// The first is answered when nobody asks any more before that.
	g.asked()
	var b [2]byte
	g.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := g.conn.Read(b[:]); err == nil {
		t.Errorf("asked %q while a question is under way", b[:n])
	}
	g.conn.SetReadDeadline(time.Time{})
	packet, err := Answer(status())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	g.answers(&asked)
	done.Wait()
	if good.Load() != scrapes {
		t.Errorf("%d of %d scrapes were answered, after %d questions more", good.Load(), scrapes, asked.Load())
	}
}

// TestNoStatus: a scrape fails while there is no status, and the next asks again.
func TestNoStatus(t *testing.T) {
	g := serve(t)
	scraped := make(chan error, 1)
	for _, none := range []bool{true, false, true} {
		go func() {
			response, body, err := g.request("GET", Path)
			if err == nil && (response.StatusCode == 503) != none {
				err = fmt.Errorf("%v, %s", response, body)
			}
			scraped <- err
		}()
		g.asked()
		s := status()
		if none {
			s = nil
		}
		packet, err := Answer(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		if err := <-scraped; err != nil {
			t.Error(err)
		}
	}
}

// TestEnds: the exporter ends with the other end of its socket, and so does the scrape
// that waits for it; what is no answer ends it, too, with an error.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(g *gateway)
		good bool
	}{
		{"closed", func(g *gateway) { g.conn.Close() }, true},
		{"nonsense", func(g *gateway) { g.conn.Write([]byte("nonsense")) }, false},
		{"two answers", func(g *gateway) { g.conn.Write([]byte("{}")); g.conn.Write([]byte("{}")) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := serve(t)
			scraped := make(chan error, 1)
			go func() {
				response, _, err := g.request("GET", Path)
				if err == nil && response.StatusCode != 503 {
					err = fmt.Errorf("%v", response)
				}
				scraped <- err
			}()
			g.asked()
			c.end(g)
			if err := <-scraped; err != nil && c.name != "two answers" {
				t.Error(err)
			}
			select {
			case err := <-g.ended:
				if (err == nil) != c.good {
					t.Errorf("it ended with %v", err)
				}
				g.ended <- err
			case <-time.After(patience):
				t.Fatal("it serves still")
			}
			if _, _, err := g.request("GET", Path); err == nil {
				t.Error("its port is open still")
			}
		})
	}
}

// TestSlowClients: clients that connect and say nothing take all places, and lose them
// when a request would have had to be there.
func TestSlowClients(t *testing.T) {
	g := serve(t)
	var asked atomic.Int64
	g.answers(&asked)
	var silent []net.Conn
	for range maxConnections {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	if response, _, err := g.request("GET", Path); err != nil || response.StatusCode != 200 {
		t.Errorf("%v, %v", response, err)
	}
	closed := 0
	for _, conn := range silent {
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			closed++
		}
	}
	if closed == 0 {
		t.Error("there was a place although all were taken")
	}
}
