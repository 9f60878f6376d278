//go:build linux

package proxy

import (
	"io"
	"net"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

func TestInband(t *testing.T) {
	client, server, b := inbandPair(t, nil)
	destination := applicationAt(t, b.behind(t, server.ip), func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "220 ready\r\n")
		echo(conn)
	})
	conn := client.dial(destination)
	expect(t, conn, "220 ready\r\n")
	write(t, conn, "hello")
	expect(t, conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expectEOF(t, conn)
	for pod, way := range map[*testPod]string{client: api.Outbound, server: api.Inbound} {
		line := pod.logged(way, func(c api.Connection) bool { return c.Direction == way })
		want := api.Connection{
			Time: line.Time, Duration: line.Duration, Level: "INFO", Message: api.ConnectionMessage,
			Direction: way, Source: addrPort(conn.LocalAddr()), Destination: destination,
			Peer: "spiffe://" + testTrustDomain + "/ns/default/sa/app",
			Wire: api.WireInband, Encrypted: true, Sent: 5, Received: 16,
		}
		if way == api.Inbound {
			want.Sent, want.Received = want.Received, want.Sent
		}
		if line != want {
			t.Errorf("%s: logged %+v\nwant %+v", way, line, want)
		}
	}
	if _, ok := server.sockets.presented.Load(addrPort(conn.LocalAddr())); !ok {
		t.Error("the application was not told the client's address")
	}
	if got, want := client.proxy.Traffic().Outbound, (api.Direction{Encrypted: 1, Inband: 1, Sent: 5, Received: 16}); got != want {
		t.Errorf("client counts %+v, want %+v", got, want)
	}
	if got, want := server.proxy.Traffic().Inbound, (api.Direction{Encrypted: 1, Inband: 1, Sent: 16, Received: 5}); got != want {
		t.Errorf("server counts %+v, want %+v", got, want)
	}
}
