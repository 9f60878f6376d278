package main

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// serveTraffic serves portTraffic on a loopback port.
func serveTraffic(t *testing.T) (*served, string) {
	ln := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { ln.Close() })
	s := &served{}
	go accept(ln, s.handle)
	return s, ln.Addr().String()
}

// relay forwards connections to target; after limit bytes of the server it ends
// them, by end. A limit of 0 is none.
func relay(t *testing.T, target string, limit int64, end func(*net.TCPConn)) string {
	ln := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { ln.Close() })
	go accept(ln, func(client *net.TCPConn) error {
		dialed, err := net.Dial("tcp", target)
		if err != nil {
			return err
		}
		server := dialed.(*net.TCPConn)
		defer server.Close()
		go func() { io.Copy(server, client); server.CloseWrite() }()
		if limit > 0 {
			_, err = io.CopyN(client, server, limit)
			end(client)
			return err
		}
		_, err = io.Copy(client, server)
		return err
	})
	return ln.Addr().String()
}

func testOptions(target string) trafficOptions {
	return trafficOptions{
		Targets: []string{target}, Held: 2, Interval: time.Millisecond, Workers: 1, Pause: time.Millisecond, For: 300 * time.Millisecond,
	}
}

func TestTraffic(t *testing.T) {
	s, address := serveTraffic(t)
	traffic := startTraffic(testOptions(relay(t, address, 0, nil)))
	<-traffic.done
	got := traffic.summary()
	if got.Requests == 0 || got.Messages <= got.Requests || got.Failures != 0 || got.Lost+got.Duplicated+got.Altered+got.Truncated != 0 {
		t.Errorf("traffic is %+v", got)
	}
	if got.LongestWait == 0 || got.LongestGap == 0 {
		t.Errorf("no times: %+v", got)
	}
	// The client sees the end of a connection a moment before the server does.
	for deadline := time.Now().Add(10 * time.Second); s.Complete.Load() < s.Connections.Load() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if sum := s.summary(); sum.Complete != sum.Connections || sum.Complete != got.Requests+2 {
		t.Errorf("the server saw %+v, the client %+v", sum, got)
	}
}

func TestTrafficSeesEnds(t *testing.T) {
	_, address := serveTraffic(t)
	for name, end := range map[string]func(*net.TCPConn){
		"reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"clean": func(c *net.TCPConn) { c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			traffic := startTraffic(testOptions(relay(t, address, 10, end)))
			<-traffic.done
			got := traffic.summary()
			if got.Requests != 0 || got.Failures == 0 {
				t.Errorf("traffic is %+v", got)
			}
			if clean := got.Truncated > 0; clean != (name == "clean") {
				t.Errorf("%d streams were truncated", got.Truncated)
			}
			for _, f := range got.Failed {
				if f.Reset != (name == "reset") {
					t.Errorf("a failure is %+v", f)
				}
			}
		})
	}
}

// TestServerSeesResets: what is reset before its first byte is unused.
func TestServerSeesResets(t *testing.T) {
	s, address := serveTraffic(t)
	for _, sent := range []string{"", "x"} {
		client := must.Get(net.Dial("tcp", address))(t)
		must.Get(io.WriteString(client, sent))(t)
		client.(*net.TCPConn).SetLinger(0)
		client.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		sum := s.summary()
		if sum.Connections == 2 && sum.Open() == 0 || time.Now().After(deadline) {
			expect.Equal(t, "the server saw", appreport.Served{Connections: 2, Unused: 1, Resets: 1}, sum)
			return
		}
	}
}

// TestResetAfterHalfClose: a connection that is reset after its half-close was reset.
func TestResetAfterHalfClose(t *testing.T) {
	ln := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer ln.Close()
	client := must.Get(net.Dial("tcp", ln.Addr().String()))(t)
	server := must.Get(ln.Accept())(t)
	defer server.Close()
	client.(*net.TCPConn).CloseWrite()
	if _, err := io.ReadAll(server); err != nil {
		t.Fatal(err)
	}
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	server.SetWriteDeadline(time.Now().Add(10 * time.Second))
	var err error
	for err == nil {
		_, err = server.Write([]byte("answer"))
	}
	if !isReset(err) {
		t.Errorf("%v is not taken for a reset", err)
	}
	if isReset(errors.Join(errTruncated, err)) {
		t.Errorf("a truncation with %v is taken for a reset", err)
	}
}
