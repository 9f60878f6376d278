// Package resend repeats requests to the API server that failed on their way or
// inside the server, where that can do no harm. client-go itself does so only
// when the server asks for it (Retry-After), and for reads of which the
// connection was cut.
package resend

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// pauses are those between the tries of one request: at most four more, within
// about five seconds.
func pauses() wait.Backoff {
	return wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 5}
}

// Transport returns next with the repetition of what [repeatable] accepts. What
// fails in the end fails as its last try did.
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
		if !failed(response, err) || pauses.Steps <= 1 || pause(request.Context(), pauses.Step()) != nil {
			return response, err
		}
		if response != nil {
			// What is read to its end leaves the connection usable.
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

// repeatable reports whether a request may be carried out twice. Patches and
// deletions say what is to be; so a second one changes nothing, or finds nothing.
// Questions that are asked by POST, and dry runs, change nothing at all.
func repeatable(request *http.Request) bool {
	if request.Body != nil && request.GetBody == nil || strings.HasSuffix(request.URL.Path, "/exec") || request.Header.Get("Upgrade") != "" {
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

// failed reports whether another try may succeed. An answer with Retry-After is
// client-go's to act on.
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

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
