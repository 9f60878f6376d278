package resend

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestResend counts how often requests reach a server that fails the first two.
func TestResend(t *testing.T) {
	for _, test := range []struct {
		name, method, path, body string
		fail                     func(http.ResponseWriter)
		reached                  int64
		code                     int // of the last answer, 0 if there is none
	}{
		{"read", "GET", "/api/v1/pods", "", status(500), 3, 200},
		{"cut read", "GET", "/api/v1/pods", "", cut, 3, 200},
		{"watch", "GET", "/api/v1/pods?watch=true", "", status(500), 1, 500},
		{"patch", "PATCH", "/api/v1/namespaces/x/pods/y/ephemeralcontainers", "the body", status(504), 3, 200},
		{"cut patch", "PATCH", "/api/v1/namespaces/x/pods/y/ephemeralcontainers", "the body", cut, 3, 200},
		{"deletion", "DELETE", "/api/v1/namespaces/x/secrets/y", "the body", status(503), 3, 200},
		{"creation", "POST", "/api/v1/namespaces/x/secrets", "the body", status(500), 1, 500},
		{"cut creation", "POST", "/api/v1/namespaces/x/secrets", "the body", cut, 1, 0},
		{"dry run", "POST", "/api/v1/namespaces/x/secrets?dryRun=All", "the body", status(500), 3, 200},
		{"replacement", "PUT", "/api/v1/namespaces/x/secrets/y", "the body", status(500), 1, 500},
		{"review", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "the body", status(500), 3, 200},
		{"exec", "POST", "/api/v1/namespaces/x/pods/y/exec", "the body", status(500), 1, 500},
		{"WebSocket to run a command", "GET", "/api/v1/namespaces/x/pods/y/exec", "", status(500), 1, 500},
		{"WebSocket to forward a port", "GET", "/api/v1/namespaces/x/pods/y/portforward", "", status(500), 1, 500},
		{"refusal", "PATCH", "/api/v1/namespaces/x/pods/y", "the body", status(403), 1, 403},
		{"for client-go", "PATCH", "/api/v1/namespaces/x/pods/y", "the body", func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(503)
		}, 1, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			var reached atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if body, _ := io.ReadAll(r.Body); string(body) != test.body {
					t.Errorf("body is %q, want %q", body, test.body)
				}
				if reached.Add(1) < 3 {
					test.fail(w)
				}
			}))
			defer server.Close()
			request := must.Get(http.NewRequestWithContext(t.Context(), test.method, server.URL+test.path, strings.NewReader(test.body)))(t)
			if strings.HasPrefix(test.name, "WebSocket") {
				// As client-go does it; what else belongs to an upgrade is added below.
				request.Header[wsstream.WebSocketProtocolHeader] = []string{"v5.channel.k8s.io"}
			}
			// No connection of its own is tried again by net/http.
			response, err := Transport(&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
			code := 0
			if err == nil {
				response.Body.Close()
				code = response.StatusCode
			}
			if reached.Load() != test.reached || code != test.code {
				t.Errorf("reached %d times, answer %d (%v), want %d times and %d", reached.Load(), code, err, test.reached, test.code)
			}
		})
	}
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }
