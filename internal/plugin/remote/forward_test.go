package remote

import (
	"bufio"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/execstreams"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// port is what listens at the port for the status of a pod's gateway: it shows a certificate and
// answers one line. It is a Dialer.
type port struct {
	certificate tls.Certificate
	protocol    string
	answer      string
	// begins is how many connections end before the gateway listens.
	begins  int
	dialled []string
	// asked gets the question.
	asked chan string
}

func (p *port) DialPort(_ context.Context, namespace, pod string, number uint16) (net.Conn, error) {
	p.dialled = append(p.dialled, fmt.Sprintf("%s/%s:%d", namespace, pod, number))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	here, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	there, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	if len(p.dialled) <= p.begins {
		return here, there.Close()
	}
	go p.serve(tls.Server(there, &tls.Config{Certificates: []tls.Certificate{p.certificate}, NextProtos: []string{p.protocol}}))
	return here, nil
}

func (p *port) serve(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	p.asked <- line
	_, _ = io.WriteString(conn, p.answer+"\n")
}

// shown is what a gateway shows: a certificate that root has signed for id and ip, and the root.
func shown(t *testing.T, root pki.Pair, id, ip string, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := pki.ECKey(t, elliptic.P256())
	leaf := root.Leaf(t, must.Get(identity.Parse(id))(t), []netip.Addr{netip.MustParseAddr(ip)}, key.Public(), edit)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, root.Cert.Raw}, PrivateKey: key}
}

// withPort is a pod whose gateway has a port for its status, according to root.
func withPort(t *testing.T, root pki.Pair) *corev1.Pod {
	t.Helper()
	pod := running()
	container := installed.Supervisor("kube-gateway", "image", corev1.PullAlways, "{}")
	must.Do(t, installed.AddStatusPort(container, pod, []string{"other", ca.Fingerprint(root.Cert)}))
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
	pod.Status.PodIP = "10.0.0.7"
	return pod
}

const (
	podIdentity = "spiffe://td/ns/demo/sa/default"
	fromPort    = `{"result":{"state":"ready","version":"by port","pod":{}}}`
	fromCommand = `{"state":"ready","version":"by command","pod":{}}`
)

// TestStatusByPort: the status comes from the gateway's port, and from a command where whatever is there
// is not surely the gateway.
func TestStatusByPort(t *testing.T) {
	root, other := pki.Root(t), pki.Root(t)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	for name, c := range map[string]struct {
		port port
		want string
	}{
		"its own":               {port{certificate: shown(t, root, podIdentity, "10.0.0.7", nil)}, "by port"},
		"another authority's":   {port{certificate: shown(t, other, podIdentity, "10.0.0.7", nil)}, "by command"},
		"another pod's":         {port{certificate: shown(t, root, podIdentity, "10.0.0.8", nil)}, "by command"},
		"another account's":     {port{certificate: shown(t, root, "spiffe://td/ns/demo/sa/other", "10.0.0.7", nil)}, "by command"},
		"an expired one":        {port{certificate: shown(t, root, podIdentity, "10.0.0.7", expired)}, "by command"},
		"a gateway's for peers": {port{certificate: shown(t, root, podIdentity, "10.0.0.7", nil), protocol: api.ALPN}, "by command"},
		"none":                  {port{}, "by command"},
		"an error":              {port{certificate: shown(t, root, podIdentity, "10.0.0.7", nil), answer: `{"error":"no"}`}, "by command"},
		"another pod's status":  {port{certificate: shown(t, root, podIdentity, "10.0.0.7", nil), answer: `{"result":{"state":"ready","pod":{"uid":"x"}}}`}, "by command"},
		"not a status":          {port{certificate: shown(t, root, podIdentity, "10.0.0.7", nil), answer: `{"result":{"state":""}}`}, "by command"},
		"without an end":        {port{certificate: shown(t, root, podIdentity, "10.0.0.7", nil), answer: strings.Repeat("x", answerLimit)}, "by command"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &c.port
			if p.protocol == "" {
				p.protocol = api.ALPNStatus
			}
			p.asked = make(chan string, 1)
			if p.answer == "" {
				p.answer = fromPort
			}
			s := &server{run: says(0, fromCommand, "")}
			g := s.start(t)
			g.pod, g.client.Ports = withPort(t, root), p
			status := must.Get(g.Status(bounded(t)))(t)
			expect.Equal(t, "how the status came", c.want, status.Version)
			expect.Equal(t, "what was dialled", []string{"demo/web:18011"}, p.dialled)
			if c.want == "by port" {
				expect.Equal(t, "commands", nil, s.asked())
			}
		})
	}
}

// TestAwaitByPort: a gateway that begins is asked again at its port, and waits itself until it is ready.
func TestAwaitByPort(t *testing.T) {
	root := pki.Root(t)
	for begins, want := range map[int]string{0: "by port", 2: "by port", 3: "by command"} {
		p := &port{certificate: shown(t, root, podIdentity, "10.0.0.7", nil), protocol: api.ALPNStatus, answer: fromPort, begins: begins, asked: make(chan string, 1)}
		g := (&server{run: says(0, fromCommand, "")}).start(t)
		g.pod, g.client.Ports = withPort(t, root), p
		status := must.Get(g.Await(bounded(t)))(t)
		expect.Equal(t, fmt.Sprintf("how the status came after %d attempts", begins), want, status.Version)
		if want == "by command" {
			continue
		}
		if asked := <-p.asked; !strings.HasPrefix(asked, `{"op":"status","wait":`) {
			t.Errorf("the gateway was asked %q", asked)
		}
	}
}

// TestOlderGatewayHasNoPort: nothing is dialled where the container's description names no port.
func TestOlderGatewayHasNoPort(t *testing.T) {
	p := &port{}
	g := (&server{run: says(0, fromCommand, "")}).start(t)
	g.client.Ports = p
	must.Get(g.Status(bounded(t)))(t)
	expect.Equal(t, "what was dialled", nil, p.dialled)
}

// kubeletPort is an API server that forwards a port, by SPDY alone.
func kubeletPort(serve func(port string, conn net.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/demo/pods/web/portforward" || wsstream.IsWebSocketRequest(r) {
			http.Error(w, "no such upgrade", http.StatusBadRequest)
			return
		}
		execstreams.Forward(w, r, serve)
	})
}

// TestForwards: a port is forwarded, and not tried again in a namespace where that is forbidden.
func TestForwards(t *testing.T) {
	ended := make(chan struct{})
	server := httptest.NewServer(kubeletPort(func(port string, conn net.Conn) {
		defer close(ended)
		line, _ := bufio.NewReader(conn).ReadString('\n')
		fmt.Fprintf(conn, "port %s: %s", port, line)
		_, _ = io.Copy(io.Discard, conn)
	}))
	t.Cleanup(server.Close)
	dialer := newForwarder(t, server.URL)
	conn := must.Get(dialer.DialPort(bounded(t), "demo", "web", 7))(t)
	must.Get(io.WriteString(conn, "hello\n"))(t)
	line := must.Get(bufio.NewReader(conn).ReadString('\n'))(t)
	expect.Equal(t, "what the pod says", "port 7: hello\n", line)
	must.Do(t, conn.Close())
	<-ended

	var requests atomic.Int32
	forbids := refuse(http.StatusForbidden, metav1.StatusReasonForbidden, "no")
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		forbids(w, r)
	}))
	t.Cleanup(server.Close)
	dialer = newForwarder(t, server.URL)
	for range 3 {
		if _, err := dialer.DialPort(bounded(t), "demo", "web", 7); !errors.Is(err, ErrForbidden) {
			t.Errorf("the error is %v", err)
		}
	}
	// One by each protocol: they are different verbs.
	expect.Equal(t, "requests", int32(2), requests.Load())
}

func newForwarder(t *testing.T, host string) *forwarder {
	t.Helper()
	config := &rest.Config{Host: host}
	// As the plugin has it: a server that refuses a protocol is not asked again.
	config.Wrap(resend.Transport)
	return &forwarder{config: config, kube: must.Get(kubernetes.NewForConfig(config))(t)}
}
