//go:build linux

package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// patience bounds every wait. It is no expectation.
const patience = 30 * time.Second

// gateway is the supervisor's end of an exporter, and the exporter.
type gateway struct {
	t         *testing.T
	questions *handoff.Questions
	url       string
	// asked gets a value with each question, which answer answers.
	asked  chan struct{}
	answer chan *api.Status
	// ended gets what Serve returns.
	ended chan error
}

func serve(t *testing.T) *gateway {
	t.Helper()
	questions, start, err := handoff.ForExporter(nil)
	if err != nil {
		t.Fatal(err)
	}
	asker := must.Get(handoff.NewAsker(start.Files[0]))(t)
	ln := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	g := &gateway{t: t, questions: questions, url: "http://" + ln.Addr().String(),
		asked: make(chan struct{}), answer: make(chan *api.Status), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { g.ended <- Serve(ctx, ln, asker) })
	running.Go(func() {
		_ = questions.Answer(ctx, func() *api.Status {
			select {
			case g.asked <- struct{}{}:
				return <-g.answer
			case <-ctx.Done():
				return nil
			}
		})
	})
	t.Cleanup(func() {
		cancel()
		questions.Close()
		running.Wait()
	})
	return g
}

func status() *api.Status {
	return &api.Status{State: api.Ready, Traffic: api.Traffic{Outbound: api.Direction{Encrypted: 7}}}
}

// answers answers every question, and counts them.
func (g *gateway) answers(count *atomic.Int64) {
	go func() {
		for {
			select {
			case <-g.asked:
				count.Add(1)
				g.answer <- status()
			case <-g.t.Context().Done():
				return
			}
		}
	}()
}

func (g *gateway) request(method, path string, headers ...string) (*http.Response, string, error) {
	r := must.Get(http.NewRequest(method, g.url+path, nil))(g.t)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{}}
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
		{"", "text/plain; version=0.0.4; charset=utf-8", "\n"},
		{"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "text/plain; version=0.0.4; charset=utf-8", "\n"},
	} {
		response, body, err := g.request("GET", Path, "Accept", c.accept, "Accept-Encoding", "gzip")
		if err != nil || response.StatusCode != 200 || response.Header.Get("Content-Type") != c.contentType || !strings.HasSuffix(body, c.end) {
			t.Fatalf("%q: %v, %v", c.accept, response, err)
		}
		if response.Header.Get("Content-Encoding") != "" || !response.Close {
			t.Errorf("%q: %v", c.accept, response)
		}
		if !strings.Contains(body, `kube_gateway_connections_total{direction="outbound",result="encrypted"} 7`) {
			t.Errorf("%s", body)
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
	<-g.asked
	select {
	case <-g.asked:
		t.Error("asked while a question is under way")
	case <-time.After(100 * time.Millisecond):
	}
	g.answer <- status()
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
		<-g.asked
		if none {
			g.answer <- nil
		} else {
			g.answer <- status()
		}
		if err := <-scraped; err != nil {
			t.Error(err)
		}
	}
}

// TestEnds: the exporter ends with the other end of its socket, and so does the scrape
// that waits for it.
func TestEnds(t *testing.T) {
	g := serve(t)
	scraped := make(chan error, 1)
	go func() {
		response, _, err := g.request("GET", Path)
		if err == nil && response.StatusCode != 503 {
			err = fmt.Errorf("%v", response)
		}
		scraped <- err
	}()
	<-g.asked
	g.questions.Close()
	if err := <-scraped; err != nil {
		t.Error(err)
	}
	select {
	case err := <-g.ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it serves still")
	}
	g.answer <- nil
	if _, _, err := g.request("GET", Path); err == nil {
		t.Error("its port is open still")
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
		conn := must.Get(net.Dial("tcp", strings.TrimPrefix(g.url, "http://")))(t)
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
