// Package answer inspects the answers from the address of an API server before client-go
// does. It recognises the pages of proxies and login portals, which client-go merely
// cannot decode, and keeps the server's words where client-go drops them.
package answer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// WebPage is the error of an answer that does not come from an API server.
type WebPage struct {
	// Server is the scheme and host of the request.
	Server string
	// Status is that of the answer, such as "200 OK".
	Status string
	// Location is the scheme and host of a redirection, or empty.
	Location string
	// code is that of Status.
	code int
}

func (p *WebPage) Error() string {
	if p.Location != "" {
		return fmt.Sprintf("%s sends to a web page at %s (%s) and does not answer as Kubernetes' API", p.Server, p.Location, p.Status)
	}
	return fmt.Sprintf("%s answers with a web page (%s), not as Kubernetes' API", p.Server, p.Status)
}

// Transport returns next, with a *WebPage and a hint in the place of an answer that does
// not come from an API server.
func Transport(next http.RoundTripper) http.RoundTripper { return transport{next} }

type transport struct{ next http.RoundTripper }

// WrappedRoundTripper lets client-go find the transport below.
func (t transport) WrappedRoundTripper() http.RoundTripper { return t.next }

func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	if err != nil {
		return response, err
	}
	if page := pageOf(request, response); page != nil {
		response.Body.Close()
		return nil, api.WithHint(page, page.Hint())
	}
	if response.StatusCode >= 400 && wordless.MatchString(request.URL.Path) {
		keepWords(response)
	}
	return response, nil
}

// pageOf returns the page that response is, nil if it comes from an API server: that
// sends no HTML, and no redirection to another host.
func pageOf(request *http.Request, response *http.Response) *WebPage {
	page := &WebPage{Server: origin(request.URL), Status: cmp.Or(strings.TrimSpace(response.Status), strconv.Itoa(response.StatusCode)), code: response.StatusCode}
	if response.StatusCode >= 300 && response.StatusCode < 400 {
		if to, err := request.URL.Parse(response.Header.Get("Location")); err == nil && to.Host != request.URL.Host {
			page.Location = origin(to)
			return page
		}
		return nil
	}
	if kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err == nil && kind == "text/html" {
		return page
	}
	return nil
}

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// Hint returns advice.
func (p *WebPage) Hint() string {
	switch {
	case p.code >= 500:
		return "a load balancer or proxy stands before the API server and does not reach it: try again in a while, or check the network (VPN?)"
	case p.code == http.StatusProxyAuthRequired:
		return "the proxy wants a login: check $HTTPS_PROXY and proxy-url in the kubeconfig, or add the server to $NO_PROXY"
	}
	return "check the server of the kubeconfig ('kubectl config view --minify'), --context, the VPN, and whether the network wants a login first"
}

// wordless are the paths whose status client-go does not read: the server's version and
// its kinds of objects. A server may have a path prefix.
var wordless = regexp.MustCompile(`(^|/)(version|api(/v1)?|apis(/[^/]+){0,2})$`)

// statusLimit bounds a status, in bytes.
const statusLimit = 64 << 10

// keepWords replaces a status with its message as plain text, which client-go passes on.
func keepWords(response *http.Response) {
	if kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, statusLimit))
	if err == nil {
		var status metav1.Status
		if json.Unmarshal(text, &status) == nil && status.Kind == "Status" && status.Message != "" {
			text = []byte(status.Message)
			response.Header.Set("Content-Type", "text/plain; charset=utf-8")
		}
	}
	rest := response.Body
	response.Body = struct {
		io.Reader
		io.Closer
	}{strings.NewReader(string(text)), rest}
	response.ContentLength = int64(len(text))
	response.Header.Del("Content-Length")
}
