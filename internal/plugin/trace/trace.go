// Package trace logs the requests to the API server and its answers, in the form of kubectl's -v:
// from level 6 URLs and times, from 7 headers, from 8 bodies. Unlike client-go it decodes bodies and masks
// what is secret in them, and shows only what it has understood:
//
//   - headers that are not known to be harmless
//   - data of Secrets, tokens, passwords, requests for certificates
//   - values of environment variables of containers
//   - private keys, requests for certificates and tokens in any text
//
// Streams (watches, logs, commands) have no body here.
package trace

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/deadline"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Levels, as in client-go.
const (
	// URLs is the lowest level at which there is something to log.
	URLs    = 6
	headers = 7
	bodies  = 8
	curl    = 9
)

// limit is how much of a body a level shows, in bytes.
func limit(level int) int {
	switch level {
	case bodies:
		return 1 << 10
	case curl:
		return 10 << 10
	}
	return 1 << 30
}

// Transport returns what wraps a transport, so that requests are logged to w at a level.
func Transport(w io.Writer, level int) func(http.RoundTripper) http.RoundTripper {
	log := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&writer{w: w})))
	return func(next http.RoundTripper) http.RoundTripper { return transport{next, log, level} }
}

// writer writes one entry at a time.
type writer struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

type transport struct {
	next  http.RoundTripper
	log   klog.Logger
	level int
}

// WrappedRoundTripper lets client-go find the transport below.
func (t transport) WrappedRoundTripper() http.RoundTripper { return t.next }

func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	what := []any{"verb", request.Method, "url", terminal.Clean(request.URL.Redacted())}
	switch {
	case t.level >= curl:
		t.log.Info("Request", "curlCommand", curlCommand(request)+"\n")
	case t.level >= headers:
		t.log.Info("Request", append(what, "headers", headerLines(request.Header))...)
	}
	if t.level >= bodies && request.Body != nil {
		t.body("Request Body", request, request.Header, given(request))
	}
	start := time.Now()
	response, err := t.next.RoundTrip(request)
	took := time.Since(start).Milliseconds()
	if err != nil {
		t.log.Info("Response", append(what, "err", terminal.Clean(err.Error()), "milliseconds", took)...)
		return response, err
	}
	what = append(what, "status", terminal.Clean(response.Status))
	if t.level >= bodies {
		what = append(what, "headers", headerLines(response.Header))
	}
	t.log.Info("Response", append(what, "milliseconds", took)...)
	if t.level >= bodies && !deadline.Stream(request) {
		t.body("Response Body", request, response.Header, keep(response))
	}
	return response, nil
}

// body logs a body, or how large it is if nothing is known of what it holds.
func (t transport) body(message string, request *http.Request, header http.Header, content []byte) {
	if len(content) == 0 {
		return
	}
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	text, ok := show(content, kind, request.URL.Path)
	if !ok {
		t.log.Info(message, "type", terminal.Clean(kind), "bytes", len(content))
		return
	}
	if most := limit(t.level); len(text) > most {
		text = fmt.Appendf(bytes.ToValidUTF8(text[:most:most], nil), " [truncated %d chars]", len(text)-most)
	}
	t.log.Info(message, "body", string(terminal.CleanJSON(text))+"\n")
}

// given returns the body of a request, nil if it can be read only once.
func given(request *http.Request) []byte {
	if request.GetBody == nil {
		return nil
	}
	body, err := request.GetBody()
	if err != nil {
		return nil
	}
	defer func() { _ = body.Close() }()
	content, _ := io.ReadAll(body)
	return content
}

// keep returns the body of an answer and leaves it to be read.
func keep(response *http.Response) []byte {
	body := response.Body
	content, err := io.ReadAll(body)
	var end io.Reader = failing{err}
	if err == nil {
		end = http.NoBody
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(content), end), body}
	return content
}

// failing fails like the body that it takes the place of.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// harmless are the headers whose values are shown.
func harmless(name string) bool {
	switch name {
	case "Accept", "Accept-Encoding", "Audit-Id", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Date",
		"Retry-After", "Transfer-Encoding", "Upgrade", "User-Agent", "Vary", "Warning", "Impersonate-User", "Impersonate-Group":
		return true
	}
	return strings.HasPrefix(name, "X-Kubernetes-Pf-")
}

// shown returns the headers to show, sorted.
func shown(header http.Header) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			if !harmless(name) {
				scheme, _, ok := strings.Cut(value, " ")
				if value = masked; ok && name == "Authorization" {
					value = scheme + " " + masked
				}
			}
			lines = append(lines, terminal.Clean(name+": "+value))
		}
	}
	return lines
}

func headerLines(header http.Header) string { return strings.Join(shown(header), "\n") + "\n" }

// curlCommand is what sends the request without its body.
func curlCommand(request *http.Request) string {
	text := "curl -v -X" + request.Method
	for _, line := range shown(request.Header) {
		text += fmt.Sprintf(" -H %q", line)
	}
	return text + " '" + terminal.Clean(request.URL.Redacted()) + "'"
}
