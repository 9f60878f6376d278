package deadline

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestBoundsRequests: what ends by itself has a deadline, and streams have none.
func TestBoundsRequests(t *testing.T) {
	for url, bounded := range map[string]bool{
		"/api/v1/pods":                       true,
		"/api/v1/pods?watch=true":            false,
		"/api/v1/namespaces/a/pods/b":        true,
		"/api/v1/namespaces/a/pods/b/log":    false,
		"/api/v1/namespaces/a/pods/b/exec":   false,
		"/api/v1/namespaces/a/pods/b/status": true,
	} {
		var deadline time.Time
		var has bool
		next := roundTripper(func(r *http.Request) (*http.Response, error) {
			deadline, has = r.Context().Deadline()
			return &http.Response{Body: io.NopCloser(strings.NewReader("x"))}, nil
		})
		request := must.Get(http.NewRequest(http.MethodGet, "https://server"+url, nil))(t)
		response := must.Get(Transport(time.Hour)(next).RoundTrip(request))(t)
		if left := time.Until(deadline); has != bounded || bounded && (left <= 0 || left > time.Hour) {
			t.Errorf("%s: deadline %v in %v", url, has, left)
		}
		must.Do(t, response.Body.Close())
	}
}

// TestEndsWithTheBody: the time is that of the answer's body, too.
func TestEndsWithTheBody(t *testing.T) {
	var ctx context.Context
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		ctx = r.Context()
		return &http.Response{Body: io.NopCloser(strings.NewReader("x"))}, nil
	})
	request := must.Get(http.NewRequest(http.MethodGet, "https://server/version", nil))(t)
	response := must.Get(Transport(time.Hour)(next).RoundTrip(request))(t)
	if ctx.Err() != nil {
		t.Error("it ended before the body was read")
	}
	must.Do(t, response.Body.Close())
	if ctx.Err() == nil {
		t.Error("it goes on after the body was closed")
	}
}

func TestCancels(t *testing.T) {
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	request := must.Get(http.NewRequest(http.MethodGet, "https://server/version", nil))(t)
	if _, err := Transport(time.Millisecond)(next).RoundTrip(request); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
