// Package resend repeats requests to the API server that failed on the network or inside
// the server, where a repetition is harmless. client-go repeats only where the server
// asks for it (Retry-After), and reads whose connection was cut.
package resend

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// pauses are the pauses between tries: at most four more tries within about five
// seconds.
func pauses() wait.Backoff {
	return wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 5}
}

// Transport returns next with repetitions of [repeatable] requests. The result is that of
// the last try.
func Transport(next http.RoundTripper) http.RoundTripper { return transport{next} }

type transport struct{ next http.RoundTripper }

// WrappedRoundTripper lets client-go find the transport below.
func (t transport) WrappedRoundTripper() http.RoundTripper { return t.next }

func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if !repeatable(request) {
		return t.next.RoundTrip(request)
	}
	for pauses := pauses(); ; {
		response, err := t.next.RoundTrip(request)
		if !failed(response, err) || pauses.Steps <= 1 || Pause(request.Context(), pauses.Step()) != nil {
			return response, err
		}
		if response != nil {
			// An answer that was read to its end leaves the connection usable.
			_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
			response.Body.Close()
		}
		if request.Body != nil {
			body, err := request.GetBody()
			if err != nil {
				return nil, err
			}
			request = request.Clone(request.Context())
			request.Body = body
		}
	}
}

// repeatable reports whether a request may be carried out twice. Patches and deletions
// are idempotent. Reviews, which are created by POST, and dry runs change nothing.
func repeatable(request *http.Request) bool {
	if request.Body != nil && request.GetBody == nil || upgrades(request) {
		return false
	}
	switch request.Method {
	case http.MethodPatch, http.MethodDelete:
		return true
	case http.MethodGet:
		return request.URL.Query().Get("watch") == ""
	case http.MethodPost:
		return strings.HasSuffix(request.URL.Path, "/selfsubjectaccessreviews") || request.URL.Query().Get("dryRun") == "All"
	}
	return false
}

// upgrades reports whether a request asks for another protocol: who makes it falls back to an older one where that is refused,
// and has changed the request by then. client-go adds Upgrade further below, SPDY's to a POST, which is not repeated anyway.
func upgrades(request *http.Request) bool {
	return request.Header.Get("Upgrade") != "" || len(request.Header[wsstream.WebSocketProtocolHeader]) > 0
}

// failed reports whether another try may succeed. client-go handles answers with
// Retry-After.
func failed(response *http.Response, err error) bool {
	if err != nil {
		return true
	}
	switch response.StatusCode {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return response.Header.Get("Retry-After") == ""
	}
	return false
}

// Pause waits for d, or returns the error of ctx when that ends before.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
