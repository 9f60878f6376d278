//go:build linux

package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// greet begins to read a status over conn.
func greet(conn net.Conn) (*tls.Conn, error) {
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{api.ALPNStatus}})
	return secured, secured.Handshake()
}

// reader prints whether the gateway that listens at an address shows itself to this process.
func reader(args []string) int {
	conn, err := net.Dial("tcp", args[0])
	if err == nil {
		_, err = greet(conn)
	}
	fmt.Println("read:", err)
	return 0
}

// TestReadersOfThePod: the node reads the status at its port, processes of the pod do not, and the
// connections of applications are the same as without.
func TestReadersOfThePod(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	spec.StatusPort = api.StatusPortOf(1)
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), spec.StatusPort).String()
	g := l.gateway(spec)
	l.gateway(l.spec(l.b))

	ask := func(question string) (line string, shown *tls.Conn, err error) {
		conn, err := l.a.Dial("tcp4", address)
		if err != nil {
			return "", nil, err
		}
		t.Cleanup(func() { conn.Close() })
		if shown, err = greet(conn); err != nil {
			return "", nil, err
		}
		if _, err := fmt.Fprintln(shown, question); err != nil {
			return "", nil, err
		}
		line, err = bufio.NewReader(shown).ReadString('\n')
		return line, shown, err
	}
	var answer struct{ Result api.Status }
	eventually(t, "the node reads the status", func() error {
		line, shown, err := ask(`{"op":"status"}`)
		if err != nil {
			return err
		}
		if root := ca.Fingerprint(shown.ConnectionState().PeerCertificates[1]); root != l.authority.Fingerprint() {
			return fmt.Errorf("the gateway shows root %s", root)
		}
		return json.Unmarshal([]byte(line), &answer)
	})
	if answer.Result.State != api.Ready || answer.Result.Pod.UID != l.a.UID {
		t.Errorf("the node reads %+v", answer.Result)
	}
	if line, _, err := ask(`{"op":"disable"}`); err != nil || !strings.Contains(line, "only the status") {
		t.Errorf("the node ends the gateway: %q, %v", line, err)
	}
	for name, cgroup := range map[string]string{"the application": l.a.AppCgroup, "the gateway's container": l.a.GatewayCgroup} {
		inside := l.a.Start(netlab.Command{Cgroup: cgroup, Helper: "reader", Args: []string{address}})
		says(t, inside, "read: ")
		if out := inside.Output(); strings.Contains(out, "<nil>") {
			t.Errorf("%s reads the status: %q", name, out)
		}
	}
	l.talk(l.a, l.b.Addr(portEcho))
	awaitStatus(t, g, "the connection is counted", func(s *api.Status) bool { return s.Traffic.Outbound.Encrypted > 0 })
}

// TestReadersWithoutPort: where the application has the port, the gateway works as ever.
func TestReadersWithoutPort(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	spec.StatusPort = api.StatusPortOf(1)
	address := fmt.Sprintf("127.0.0.1:%d", spec.StatusPort)
	taken := l.a.Start(netlab.Command{Cgroup: l.a.AppCgroup, Path: l.app, Args: []string{"listen", address}})
	says(t, taken, "listening")
	g := l.gateway(spec)
	eventually(t, "the log says so", func() error {
		if !strings.Contains(g.Output(), "the status is read by commands alone") {
			return errors.New(g.Output())
		}
		return nil
	})
	st := must.Get(g.Call(t.Context(), control.Request{Op: control.OpStatus}))(t)
	if st.State != api.Ready {
		t.Errorf("the gateway is %s", st.State)
	}
}
