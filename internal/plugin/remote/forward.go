package remote

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// greetingTimeout bounds the way to a gateway over a forwarded port, half of the time that is left
// at most: a command can still follow.
const greetingTimeout = 5 * time.Second

// Dialer connects to a port on loopback of a pod. The error wraps ErrForbidden if the user may not.
type Dialer interface {
	DialPort(ctx context.Context, namespace, pod string, port uint16) (net.Conn, error)
}

// forwarder connects to ports of the pods of one cluster, as kubectl port-forward does.
type forwarder struct {
	config *rest.Config
	kube   kubernetes.Interface
	// forbidden has the namespaces in which the user may not.
	forbidden sync.Map
}

// DialPort is part of Dialer.
func (f *forwarder) DialPort(ctx context.Context, namespace, pod string, port uint16) (net.Conn, error) {
	if _, known := f.forbidden.Load(namespace); known {
		return nil, ErrForbidden
	}
	// Only the WebSocket's error has the server's answer as a status.
	var refused error
	dialer, err := f.dialer(namespace, pod, &refused)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, dialer)
	switch {
	case err == nil:
	case ctx.Err() == nil && refused != nil && apierrors.IsForbidden(refused):
		f.forbidden.Store(namespace, true)
		return nil, ErrForbidden
	default:
		return nil, err
	}
	stream, err := openStreams(conn, port)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &forwarded{stream, conn}, nil
}

// dialer prefers WebSockets and falls back to SPDY, as executor.open does. refused becomes why the
// server refused a WebSocket.
func (f *forwarder) dialer(namespace, pod string, refused *error) (httpstream.Dialer, error) {
	target := f.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(target, f.config)
	if err != nil {
		return nil, err
	}
	older := dialerFunc(func(protocols ...string) (httpstream.Connection, string, error) {
		transport, upgrader, err := spdy.RoundTripperFor(f.config)
		if err != nil {
			return nil, "", err
		}
		return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target).Dial(protocols...)
	})
	return portforward.NewFallbackDialerForStreaming(websocket, older, func(err error) bool {
		*refused = statusOf(err)
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

type dialerFunc func(protocols ...string) (httpstream.Connection, string, error)

func (f dialerFunc) Dial(protocols ...string) (httpstream.Connection, string, error) {
	return f(protocols...)
}

// dial returns at the end of ctx, which the library does not know, too.
func dial(ctx context.Context, dialer httpstream.Dialer) (httpstream.Connection, error) {
	type result struct {
		conn httpstream.Connection
		err  error
	}
	dialled := make(chan result, 1)
	go func() {
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		dialled <- result{conn, err}
	}()
	select {
	case r := <-dialled:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-dialled; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// openStreams returns the stream of data to a port. That of errors says only why the other one ends.
func openStreams(conn httpstream.Connection, port uint16) (httpstream.Stream, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	failures, err := conn.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	// Nothing is sent there.
	failures.Close()
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	return conn.CreateStream(headers)
}

// forwarded is a stream as a net.Conn without deadlines.
type forwarded struct {
	httpstream.Stream
	conn httpstream.Connection
}

func (f *forwarded) Close() error {
	// The runtime waits a second for what else may come, unless its client has hung up.
	return errors.Join(f.Stream.Close(), f.conn.Close())
}

func (*forwarded) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*forwarded) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*forwarded) SetDeadline(time.Time) error      { return nil }
func (*forwarded) SetReadDeadline(time.Time) error  { return nil }
func (*forwarded) SetWriteDeadline(time.Time) error { return nil }

// statusQuestion is what a gateway is asked at its port for the status, and statusAnswer what it says.
type statusQuestion struct {
	Op   string        `json:"op"`
	Wait time.Duration `json:"wait,omitempty"`
}

type statusAnswer struct {
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
}

// errNoPort says that the status of a gateway is read by commands alone.
var errNoPort = errors.New("the gateway has no port for its status")

// readStatus reads the status from the gateway's port for it, which costs the node a fraction of a
// command in the container. wait is how long the gateway waits until it is ready. After an error a command
// tells more.
func (g *Conn) readStatus(ctx context.Context, wait time.Duration) (*api.Status, error) {
	port, ok := installed.StatusPortOf(g.pod, g.container)
	if !ok || g.client.Ports == nil {
		return nil, errNoPort
	}
	conn, err := g.greet(ctx, port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.NetConn().Close() })()
	question, err := jsonLine(statusQuestion{Op: "status", Wait: wait})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, answerLimit)).ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	var answer statusAnswer
	if err := json.Unmarshal(bytes.TrimSpace(line), &answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, errors.New(answer.Error)
	}
	return parse(answer.Result, g.checkStatus)
}

// greet connects to the port, at which the gateway has to show its certificate.
func (g *Conn) greet(ctx context.Context, port api.StatusPort) (*tls.Conn, error) {
	ctx, cancel := within(ctx, greetingTimeout)
	defer cancel()
	raw, err := g.client.Ports.DialPort(ctx, g.pod.Namespace, g.pod.Name, port.Port)
	if err != nil {
		return nil, err
	}
	heard := &hearing{Conn: raw}
	conn := tls.Client(heard, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{api.ALPNStatus},
		// The roots are known by their fingerprints alone.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return g.verify(&state, port.Roots) },
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if !heard.anything && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", errSilent, err)
		}
		return nil, err
	}
	return conn, nil
}

// errSilent says that nobody has answered at a port: a gateway that begins does not listen yet.
var errSilent = errors.New("nobody answers")

// hearing knows whether anything came from the other end.
type hearing struct {
	net.Conn
	anything bool
}

func (h *hearing) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.anything = h.anything || n > 0
	return n, err
}

// verify returns nil if the other end is a gateway of this pod, according to an authority among
// roots.
func (g *Conn) verify(state *tls.ConnectionState, roots []string) error {
	shown := state.PeerCertificates
	if len(shown) == 0 || state.NegotiatedProtocol != api.ALPNStatus {
		return errors.New("who answers is no gateway")
	}
	var trusted []*x509.Certificate
	for _, c := range shown {
		if slices.Contains(roots, ca.Fingerprint(c)) {
			trusted = append(trusted, c)
		}
	}
	if len(trusted) == 0 {
		return errors.New("its certificate leads to another authority")
	}
	if _, err := ca.Verify(shown, trusted, time.Now()); err != nil {
		return err
	}
	id, err := identity.FromCertificate(shown[0])
	if err != nil {
		return err
	}
	if want := installed.Identity(g.pod, id.TrustDomain); id != want {
		return fmt.Errorf("its certificate is that of %s", id)
	}
	for _, ip := range installed.PodIPs(g.pod) {
		if !ca.NamesAddress(shown[0], ip) {
			return fmt.Errorf("its certificate does not name %s", ip)
		}
	}
	return nil
}
