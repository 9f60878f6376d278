// Package answer looks at what comes back from the address of an API server, before
// client-go does: it recognises the pages of proxies and of login portals, of which
// client-go would only say that it cannot decode them, and keeps the server's words
// where client-go drops them.
package answer

import (
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

// WebPage says that something else than an API server answers.
type WebPage struct {
	// Server is the scheme and the host that were asked.
	Server string
	// Status is the answer's, such as "200 OK".
	Status string
	// Location is where it sends browsers to, a scheme and a host, or empty.
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

// Transport returns next with answers that are no API server's turned into a
// *WebPage that has a hint.
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

// pageOf returns what response is if it is no API server's. Their own are never HTML,
// and they send nobody to another host.
func pageOf(request *http.Request, response *http.Response) *WebPage {
	page := &WebPage{Server: origin(request.URL), Status: strings.TrimSpace(response.Status), code: response.StatusCode}
	if page.Status == "" {
		page.Status = strconv.Itoa(response.StatusCode)
	}
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

// Hint returns what to do about it.
func (p *WebPage) Hint() string {
	switch {
	case p.code >= 500:
		return "a load balancer or proxy stands before the API server and does not reach it: try again in a while, or check the network (VPN?)"
	case p.code == http.StatusProxyAuthRequired:
		return "the proxy wants a login: check $HTTPS_PROXY and proxy-url in the kubeconfig, or add the server to $NO_PROXY"
	}
	return "check the server of the kubeconfig ('kubectl config view --minify'), --context, the VPN, and whether the network wants a login first"
}

// wordless are the paths of which client-go reads answers without their status: the
// server's version, and its kinds of objects. Servers may have a path in front.
var wordless = regexp.MustCompile(`(^|/)(version|api(/v1)?|apis(/[^/]+){0,2})$`)

// statusLimit bounds a status that is read, in bytes.
const statusLimit = 64 << 10

// keepWords makes a status its message as plain text, which client-go passes on.
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
