//go:build linux

package bpf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// marking is a connection of which one end sends urgent data, and the gateway is the other end.
type marking struct {
	netlab.TCP
	Gateway bool
	// Before is how many bytes come before the urgent one, and Plain means that there is none.
	Before int
	Plain  bool
	// Late means that the handshake ends with the first data, and FastOpen that it begins with some: the bytes before.
	Late, FastOpen bool
}

// marked is what the gateway says of it.
type marked struct {
	Read     int
	UrgentAt uint64
}

// markerMain is one end.
func markerMain(args []string) int {
	var m marking
	err := json.Unmarshal([]byte(args[0]), &m)
	if err == nil {
		err = m.run()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func (m *marking) run() error {
	fd, err := m.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if m.Gateway {
		return m.read(fd)
	}
	return m.send(fd)
}

func (m *marking) open() (int, error) {
	var connect func(fd int, to unix.Sockaddr) error
	if m.FastOpen {
		connect = func(fd int, to unix.Sockaddr) error {
			return unix.Sendto(fd, make([]byte, m.Before), unix.MSG_FASTOPEN, to)
		}
	}
	return m.Open(func(fd int) error {
		switch {
		case m.Gateway && m.Listen.IsValid():
			return bpf.MarkListener(fd, false)
		case m.Gateway:
			return bpf.PresentAs(fd, netip.MustParseAddrPort("10.1.2.3:4567"))
		case m.Late && m.To.IsValid():
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
		}
		return nil
	}, connect)
}

func (m *marking) send(fd int) error {
	var errs []error
	if m.Before > 0 && !m.FastOpen {
		_, err := unix.Write(fd, make([]byte, m.Before))
		errs = append(errs, err)
	}
	if !m.Plain {
		errs = append(errs, unix.Sendto(fd, []byte("!"), unix.MSG_OOB, nil))
	}
	_, err := unix.Write(fd, []byte("behind"))
	errs = append(errs, err, unix.Shutdown(fd, unix.SHUT_WR))
	// Until the other end has closed its socket.
	_, err = unix.Read(fd, make([]byte, 1))
	return errors.Join(append(errs, err)...)
}

func (m *marking) read(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return err
	}
	var did marked
	for b := make([]byte, 64<<10); ; {
		n, err := unix.Read(fd, b)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		did.Read += n
	}
	var err error
	if did.UrgentAt, err = bpf.UrgentAt(fd); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(did)
}

// mark makes such a connection between an application of the pod and its gateway, and returns what the gateway says.
func (s *scene) mark(m marking, listener, dialler netip.AddrPort, toApplication bool) marked {
	s.Helper()
	start := func(gateway bool, listen, to netip.AddrPort) *netlab.Process {
		c := netlab.Command{Cgroup: s.here.AppCgroup, Helper: "marker", User: 1000}
		if gateway {
			c.Cgroup, c.User = s.here.GatewayCgroup, api.WorkerID
		}
		end := m
		end.Gateway, end.TCP = gateway, netlab.TCP{Listen: listen, To: to}
		text, err := json.Marshal(end)
		must(s.T, err)
		c.Args = []string{string(text)}
		return s.here.Start(c)
	}
	accepting := start(!toApplication, listener, netip.AddrPort{})
	await(s.T, func() string {
		if out := accepting.Output(); out != "listening\n" {
			return "it does not listen: " + out
		}
		return ""
	})
	dialling := start(toApplication, netip.AddrPort{}, dialler)
	for _, p := range []*netlab.Process{dialling, accepting} {
		if err := p.Wait(); err != nil {
			s.Fatalf("%v: %s", err, p.Output())
		}
	}
	text := dialling.Output()
	if !toApplication {
		text = accepting.Output()[len("listening\n"):]
	}
	var did marked
	must(s.T, json.Unmarshal([]byte(text), &did))
	return did
}

// markedScene is a scene whose capture listeners are those of mark, and what says whether there was urgent data.
func markedScene(t *testing.T) (s *scene, urgent func() uint32) {
	s = setUp(t, nil)
	s.gateway.do(request{Stop: true})
	f, err := s.programs.Urgent()
	must(t, err)
	defer f.Close()
	seen, err := bpf.MapUrgent(f)
	must(t, err)
	return s, seen.Load
}

// TestUrgent: the programs say of both kinds of sockets that lead to an application where the first urgent byte was, once there
// is one.
func TestUrgent(t *testing.T) {
	s, urgent := markedScene(t)
	listener := map[bool]netip.AddrPort{false: netip.MustParseAddrPort("127.0.0.1:18000"), true: netip.MustParseAddrPort("[::1]:18000")}
	remote := map[bool]netip.AddrPort{false: netip.MustParseAddrPort("10.9.0.77:80"), true: netip.MustParseAddrPort("[fd00:9::77]:80")}
	local := map[bool]netip.AddrPort{false: at(s.here.IP4, 8090), true: at(s.here.IP6, 8090)}
	both := func(name string, m marking, want marked) {
		t.Helper()
		for _, six := range []bool{false, true} {
			if diff := cmp.Diff(want, s.mark(m, listener[six], remote[six], false)); diff != "" {
				t.Errorf("%s, captured, IPv6: %t (-want +got):\n%s", name, six, diff)
			}
			if m.Late {
				continue
			}
			if diff := cmp.Diff(want, s.mark(m, local[six], local[six], true)); diff != "" {
				t.Errorf("%s, to the application, IPv6: %t (-want +got):\n%s", name, six, diff)
			}
		}
	}
	both("no urgent data", marking{Before: 1 << 20, Plain: true}, marked{1<<20 + 6, 0})
	if n := urgent(); n != 0 {
		t.Errorf("without urgent data the map says %d", n)
	}
	if s.mark(marking{Late: true}, listener[false], remote[false], false); urgent() != 1 {
		t.Errorf("after urgent data the map says %d", urgent())
	}
	both("first", marking{}, marked{7, 1})
	both("with the handshake", marking{Late: true}, marked{7, 1})
	both("behind data", marking{Before: 6}, marked{13, 7})
	both("behind much data", marking{Before: 1 << 20}, marked{1<<20 + 7, 1<<20 + 1})
}

// TestUrgentByEachKind: each kind of socket is watched from its first segment on.
func TestUrgentByEachKind(t *testing.T) {
	for name, c := range map[string]struct {
		toApplication bool
		m             marking
	}{
		"captured":           {false, marking{}},
		"to the application": {true, marking{}},
		"ends a handshake":   {false, marking{Late: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s, urgent := markedScene(t)
			listener, to := netip.MustParseAddrPort("127.0.0.1:18000"), netip.MustParseAddrPort("10.9.0.77:80")
			if c.toApplication {
				listener, to = at(s.here.IP4, 8090), at(s.here.IP4, 8090)
			}
			s.mark(c.m, listener, to, c.toApplication)
			if urgent() != 1 {
				t.Errorf("the map says %d", urgent())
			}
		})
	}
}

// TestUrgentFastOpen: what the kernel does not show is taken for urgent.
func TestUrgentFastOpen(t *testing.T) {
	s, urgent := markedScene(t)
	// Clients and servers use it, without a cookie, whether or not the server has asked for it.
	must(t, s.here.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("1543"), 0) }))
	did := s.mark(marking{FastOpen: true, Before: 5, Plain: true}, netip.MustParseAddrPort("127.0.0.1:18000"),
		netip.MustParseAddrPort("10.9.0.77:80"), false)
	if diff := cmp.Diff(marked{11, 0}, did); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if urgent() != 1 {
		t.Errorf("the map says %d", urgent())
	}
}

// TestUrgentCannotBeChanged by who has the file.
func TestUrgentCannotBeChanged(t *testing.T) {
	s := setUp(t, nil)
	f, err := s.programs.Urgent()
	must(t, err)
	defer f.Close()
	if _, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("the map can be mapped to write to it")
	}
	if err := s.programs.PutUrgent(); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to the map: %v", err)
	}
}
