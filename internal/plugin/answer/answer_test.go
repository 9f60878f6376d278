package answer

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

const status = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"%","message":"the server's own words","code":%}`

// serve returns a client of a server that answers everything so.
func serve(t *testing.T, code int, contentType, body string) (*kubernetes.Clientset, string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		if code >= 300 && code < 400 {
			w.Header().Set("Location", body)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	config := &rest.Config{Host: server.URL}
	config.Wrap(Transport)
	client := must.Get(kubernetes.NewForConfig(config))(t)
	return client, server.URL
}

func TestWebPages(t *testing.T) {
	for _, c := range []struct {
		code                    int
		contentType, body, hint string
	}{
		{200, "text/html; charset=utf-8", "<html>please log in</html>", "wants a login"},
		{403, "text/html", "<html>no</html>", "check the server of the kubeconfig"},
		{407, "text/html", "<html>no</html>", "$NO_PROXY"},
		{502, "TEXT/HTML", "<html>bad gateway</html>", "try again"},
		{302, "text/html", "https://login.example/next?x", "wants a login"},
	} {
		client, url := serve(t, c.code, c.contentType, c.body)
		_, err := client.CoreV1().Pods("x").Get(t.Context(), "y", metav1.GetOptions{})
		var page *WebPage
		if !errors.As(err, &page) || page.Server != url || !strings.Contains(api.Hint(err), c.hint) {
			t.Errorf("%d %s: %v, hint %q", c.code, c.contentType, err, api.Hint(err))
		}
		if c.code == 302 && page != nil && page.Location != "https://login.example" {
			t.Errorf("sent to %q", page.Location)
		}
	}
}

// TestNoWebPages looks at answers that must come through as they are.
func TestNoWebPages(t *testing.T) {
	client, _ := serve(t, 200, "application/json", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"y"}}`)
	if pod, err := client.CoreV1().Pods("x").Get(t.Context(), "y", metav1.GetOptions{}); err != nil || pod.Name != "y" {
		t.Errorf("%v, %v", pod, err)
	}
	client, _ = serve(t, 403, "application/json", strings.NewReplacer(`"%"`, `"Forbidden"`, "%", "403").Replace(status))
	if _, err := client.CoreV1().Pods("x").Get(t.Context(), "y", metav1.GetOptions{}); !apierrors.IsForbidden(err) || err.Error() != "the server's own words" {
		t.Errorf("%v", err)
	}
	// To the same host is no page of somebody else.
	redirect := httptest.NewRecorder()
	http.Redirect(redirect, httptest.NewRequest("GET", "http://here/a", nil), "/b", http.StatusFound)
	if page := pageOf(httptest.NewRequest("GET", "http://here/a", nil), redirect.Result()); page != nil {
		t.Errorf("%v", page)
	}
}

// TestWords asks where client-go forgets what a server says.
func TestWords(t *testing.T) {
	for code, is := range map[int]func(error) bool{403: apierrors.IsForbidden, 500: apierrors.IsInternalError, 503: apierrors.IsServiceUnavailable} {
		client, _ := serve(t, code, "application/json", status)
		if _, err := client.Discovery().ServerVersion(); err == nil || !is(err) {
			t.Errorf("%d: %v", code, err)
		}
		client, _ = serve(t, code, "application/json", strings.NewReplacer(`"%"`, `"x"`, "%", "1").Replace(status))
		_, err := client.Discovery().ServerVersion()
		if err == nil || !is(err) || code != 503 && !strings.Contains(err.Error(), "the server's own words") {
			t.Errorf("version, %d: %v", code, err)
		}
		if _, err = client.Discovery().ServerGroups(); err == nil || code != 503 && !strings.Contains(err.Error(), "the server's own words") {
			t.Errorf("groups, %d: %v", code, err)
		}
	}
	client, _ := serve(t, 403, "application/json", `{"kind":"Status","message":"`+strings.Repeat("x", statusLimit)+`"}`)
	if _, err := client.Discovery().ServerVersion(); !apierrors.IsForbidden(err) {
		t.Errorf("a status without end: %.200v", err)
	}
}
