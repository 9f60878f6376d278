//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// front is an API server for the plugin's eyes: it hands all on to the real one,
// execs included, but it can be taken down, and it can fail writes.
type front struct {
	t *testing.T
	// kubeconfig is the path of a file that leads to the front.
	kubeconfig string
	address    string
	proxy      *httputil.ReverseProxy
	config     *tls.Config

	mu     sync.Mutex
	server *http.Server

	// every is n if each nth write fails, 0 if none.
	every  atomic.Int64
	writes atomic.Int64
	faults atomic.Int64
	// told counts the faults by name.
	told sync.Map
}

// fault is one way to fail a request.
type fault struct {
	name string
	// late has the API server carry out the request, whose answer is then lost.
	late bool
	// fail answers the request, or cuts its connection.
	fail func(http.ResponseWriter)
}

// faults returns the ways to fail, one after the other.
func faults() []fault {
	answer := func(code int, reason string, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":"injected fault","code":%d}`, reason, code)
		}
	}
	cut := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	return []fault{
		{"500 before", false, answer(http.StatusInternalServerError, "InternalError")},
		{"cut after", true, cut},
		{"503 before", false, answer(http.StatusServiceUnavailable, "ServiceUnavailable", "Retry-After", "1")},
		{"500 after", true, answer(http.StatusInternalServerError, "InternalError")},
		{"429 before", false, answer(http.StatusTooManyRequests, "TooManyRequests", "Retry-After", "1")},
		{"cut before", false, cut},
		{"504 after", true, answer(http.StatusGatewayTimeout, "Timeout")},
	}
}

// newFront starts a front of the cluster's API server.
func newFront(t *testing.T) *front {
	t.Helper()
	config := must.Get(clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")))(t)
	transport := must.Get(frontTransport(config))(t)
	target := must.Get(url.Parse(config.Host))(t)
	quiet := log.New(io.Discard, "", 0)
	f := &front{t: t, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("Authorization")
		},
		Transport: transport, FlushInterval: -1, ErrorLog: quiet,
		ModifyResponse: cutExec,
		// What an API server that is gone looks like.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	// The certificate of httptest is for 127.0.0.1 and example.com.
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	// No HTTP/2: an exec upgrades its connection.
	f.config = &tls.Config{Certificates: certificate.TLS.Certificates, NextProtos: []string{"http/1.1"}}
	f.up()
	t.Cleanup(f.down)

	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate().Raw})
	file := clientcmdapi.NewConfig()
	file.Clusters["front"] = &clientcmdapi.Cluster{Server: "https://" + f.address, CertificateAuthorityData: ca}
	file.AuthInfos["admin"] = &clientcmdapi.AuthInfo{Token: "the front is the administrator"}
	file.Contexts["front"] = &clientcmdapi.Context{Cluster: "front", AuthInfo: "admin"}
	file.CurrentContext = "front"
	must.Do(t, clientcmd.WriteToFile(*file, f.kubeconfig))
	return f
}

// frontTransport speaks HTTP/1.1 to the API server, as its administrator.
func frontTransport(config *rest.Config) (*http.Transport, error) {
	secure, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	secure.NextProtos = []string{"http/1.1"}
	return &http.Transport{TLSClientConfig: secure, MaxIdleConnsPerHost: 50}, nil
}

// up has the front answer, at the same address as before.
func (f *front) up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server != nil {
		return
	}
	address := f.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener := must.Get(net.Listen("tcp", address))(f.t)
	f.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	f.server = &http.Server{
		Handler: f, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	f.server.RegisterOnShutdown(cancel)
	go f.server.Serve(tls.NewListener(listener, f.config))
}

// down cuts all connections, and refuses new ones until up.
func (f *front) down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		return
	}
	// Upgraded connections are not the server's any more, but their context is.
	done, cancel := context.WithCancel(context.Background())
	cancel()
	f.server.Shutdown(done)
	f.server.Close()
	f.server = nil
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upgrade := r.Header.Get("Upgrade") != ""
	write := upgrade || r.Method != http.MethodGet && r.Method != http.MethodHead
	n := f.every.Load()
	if !write || n == 0 || f.writes.Add(1)%n != 0 {
		f.proxy.ServeHTTP(w, r)
		return
	}
	all := faults()
	chosen := all[int(f.faults.Add(1)-1)%len(all)]
	count, _ := f.told.LoadOrStore(chosen.name, new(atomic.Int64))
	count.(*atomic.Int64).Add(1)
	switch {
	case chosen.late && upgrade:
		// The command runs, and its output is lost in the middle.
		f.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), cutKey{}, true)))
		return
	case chosen.late:
		f.proxy.ServeHTTP(httptest.NewRecorder(), r)
	}
	chosen.fail(w)
}

// report lists the faults that were injected.
func (f *front) report() string {
	var parts []string
	f.told.Range(func(name, count any) bool {
		parts = append(parts, fmt.Sprintf("%s: %d", name, count.(*atomic.Int64).Load()))
		return true
	})
	return fmt.Sprintf("%d writes, of which failed: %s", f.writes.Load(), strings.Join(parts, ", "))
}

// cutKey marks the context of an exec that is to be cut.
type cutKey struct{}

// cutAfter is how many bytes of an exec's answers pass before it is cut: enough
// for the protocol's beginning, less than what a gateway says.
const cutAfter = 300

// cutExec cuts the connection of an exec that is marked.
func cutExec(response *http.Response) error {
	if body, ok := response.Body.(io.ReadWriteCloser); ok && response.StatusCode == http.StatusSwitchingProtocols && response.Request.Context().Value(cutKey{}) != nil {
		response.Body = &cutStream{body, cutAfter}
	}
	return nil
}

type cutStream struct {
	io.ReadWriteCloser
	left int
}

func (c *cutStream) Read(b []byte) (int, error) {
	if c.left <= 0 {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadWriteCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// gateway runs "kubectl gateway" through the front, which may fail.
func (f *front) gateway(args ...string) output {
	f.t.Helper()
	return runCommand(f.t.Context(), f.t, "", "kubectl", append([]string{"gateway", "--kubeconfig=" + f.kubeconfig}, args...)...)
}

// TestFront shows that the front itself is a faithful API server, and fails
// what it should.
func TestFront(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	f := newFront(t)
	through := func(args ...string) output {
		return runCommand(t.Context(), t, "", "kubectl", append([]string{"--kubeconfig=" + f.kubeconfig, "-n", ns}, args...)...)
	}
	p := startPods(t, ns, podSpec("a", node1))[0]
	if out := through("exec", p.name, "-c", "app", "--", "/app", "established", "1"); out.code != 0 || !strings.Contains(out.stdout, "{") {
		t.Fatalf("exec through the front: %+v", out)
	}
	f.every.Store(1)
	for range faults() {
		if out := through("create", "configmap", "x", "--request-timeout=5s"); out.code == 0 {
			t.Errorf("a write that should fail is %+v", out)
		}
		through("delete", "configmap", "x", "--request-timeout=5s")
	}
	f.every.Store(0)
	if out := through("get", "pods"); out.code != 0 {
		t.Errorf("after the faults: %+v", out)
	}
	f.down()
	if out := through("get", "pods", "--request-timeout=5s"); out.code == 0 {
		t.Errorf("a front that is down answers: %+v", out)
	}
	f.up()
	if out := through("get", "pods"); out.code != 0 {
		t.Errorf("after it was down: %+v", out)
	}
	t.Log(f.report())
}
