// Package deadline applies --request-timeout to requests that end by themselves. client-go applies
// it to all of them, so that it cuts watches, logs and commands as well.
package deadline

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"
)

// Transport returns what wraps a transport so that requests are cancelled after timeout, with
// [context.DeadlineExceeded], unless they are streams.
func Transport(timeout time.Duration) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper { return transport{next, timeout} }
}

type transport struct {
	next    http.RoundTripper
	timeout time.Duration
}

// WrappedRoundTripper lets client-go find the transport below.
func (t transport) WrappedRoundTripper() http.RoundTripper { return t.next }

func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if Stream(request) {
		return t.next.RoundTrip(request)
	}
	ctx, cancel := context.WithTimeout(request.Context(), t.timeout)
	response, err := t.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = &body{response.Body, cancel}
	return response, nil
}

// body is that of an answer. It is read in the time of its request.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// Stream reports whether the answer of an API server to request may go on for as long as the
// server likes: watches, logs, and commands.
func Stream(request *http.Request) bool {
	path := request.URL.Path
	return request.URL.Query().Get("watch") != "" || request.Header.Get("Upgrade") != "" ||
		strings.HasSuffix(path, "/log") || strings.HasSuffix(path, "/exec")
}
