package execstreams

import (
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
)

// Forward has serve answer each connection to a port that r asks to forward, by SPDY alone, until the client hangs up.
func Forward(w http.ResponseWriter, r *http.Request, serve func(port string, conn net.Conn)) {
	conn, opened := upgrade(w, r, portforward.PortForwardProtocolV1Name)
	if conn == nil {
		return
	}
	defer conn.Close()
	for {
		select {
		case stream := <-opened:
			if headers := stream.Headers(); headers.Get(corev1.StreamType) == corev1.StreamTypeData {
				go serve(headers.Get(corev1.PortHeader), streamConn{stream})
			}
		case <-conn.CloseChan():
			return
		}
	}
}

// streamConn is a stream as a net.Conn without deadlines.
type streamConn struct{ httpstream.Stream }

func (streamConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (streamConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (streamConn) SetDeadline(time.Time) error      { return nil }
func (streamConn) SetReadDeadline(time.Time) error  { return nil }
func (streamConn) SetWriteDeadline(time.Time) error { return nil }
