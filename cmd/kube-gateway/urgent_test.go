//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// marking is a connection of which one end sends urgent data. Each end is a process.
type marking struct {
	netlab.TCP
	Sends bool
	// Before is how many bytes come before the urgent one. Late means that the handshake ends with the first data.
	Before int
	Late   bool
}

// marked is what the other end has got, and behind how many bytes the marks were.
type marked struct {
	Total int
	Marks []int
}

// behindMark comes behind the urgent byte.
const behindMark = "behind"

// marker is a process that is one end.
func marker(args []string) int {
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
	fd, err := m.Open(func(fd int) error {
		if !m.Late || !m.To.IsValid() {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	}, nil)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if m.Sends {
		return m.send(fd)
	}
	return receiveMarks(fd)
}

func (m *marking) send(fd int) error {
	_, err := unix.Write(fd, make([]byte, m.Before))
	// What is further ahead than 64 KiB has no pointer to it: one to somewhere comes first.
	for queued := 1; queued > 0 && err == nil; time.Sleep(100 * time.Microsecond) {
		queued, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	}
	if err == nil {
		err = unix.Sendto(fd, []byte("!"), unix.MSG_OOB, nil)
	}
	_, behind := unix.Write(fd, []byte(behindMark))
	err = errors.Join(err, behind, unix.Shutdown(fd, unix.SHUT_WR))
	// Until the other end has got all.
	_, ended := unix.Read(fd, make([]byte, 1))
	return errors.Join(err, ended)
}

func receiveMarks(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return err
	}
	var did marked
	for b := make([]byte, 64<<10); ; {
		// A mark that comes with data after the question would be missed.
		n, _, err := unix.Recvfrom(fd, b[:1], unix.MSG_PEEK)
		if err != nil {
			return err
		}
		if n == 0 {
			return json.NewEncoder(os.Stdout).Encode(did)
		}
		at, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
		if err != nil {
			return err
		}
		room := b
		if at == 1 {
			did.Marks, room = append(did.Marks, did.Total), b[:1]
		}
		if n, err = unix.Read(fd, room); err != nil {
			return err
		}
		if at == 1 && b[0] != '!' {
			return fmt.Errorf("%q is marked", b[0])
		}
		did.Total += n
	}
}

// mark has an application of one pod connect to one of another, of which one sends m to the other.
func (l *lab) mark(from, to *netlab.Node, address netip.AddrPort, m marking, answers bool) {
	l.t.Helper()
	start := func(n *netlab.Node, listen, to netip.AddrPort, sends bool) *netlab.Process {
		end := m
		end.TCP, end.Sends = netlab.TCP{Listen: listen, To: to}, sends
		return n.Start(netlab.Command{Cgroup: n.AppCgroup, Helper: "marker", Args: []string{string(must.Get(json.Marshal(end))(l.t))}})
	}
	server := start(to, address, netip.AddrPort{}, answers)
	says(l.t, server, "listening\n")
	client := start(from, netip.AddrPort{}, address, !answers)
	for _, p := range []*netlab.Process{client, server} {
		if err := p.Wait(); err != nil {
			l.t.Fatalf("%+v, answered: %t: %v: %s", m, answers, err, p.Output())
		}
	}
	text := strings.TrimPrefix(server.Output(), "listening\n")
	if answers {
		text = client.Output()
	}
	var did marked
	must.Do(l.t, json.Unmarshal([]byte(text), &did))
	want := marked{m.Before + len("!"+behindMark), []int{m.Before}}
	if diff := cmp.Diff(want, did); diff != "" {
		l.t.Errorf("%+v, answered: %t (-want +got):\n%s", m, answers, diff)
	}
}

// knows reports whether a worker has the programs' word on urgent data.
func knows(t *testing.T, worker int) bool {
	t.Helper()
	return strings.Contains(string(must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/maps", worker)))(t)), "bpf-map")
}

// TestUrgentDataOfAPod: the first urgent byte of a pod ever arrives with its mark, from a client and from a server, and so do later
// ones.
func TestUrgentDataOfAPod(t *testing.T) {
	for name, m := range map[string]marking{
		"first":              {},
		"with the handshake": {Late: true},
		"behind data":        {Before: 5},
		"behind much data":   {Before: 1 << 20},
	} {
		for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
			t.Run(name+", "+string(wire), func(t *testing.T) {
				l := newLab(t)
				a := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.Wire = wire }))
				b := l.gateway(with(l.spec(l.b), func(c *api.Config) { c.Wire = wire }))
				l.talk(l.a, l.b.Addr(portEcho))
				for _, g := range []int{status(t, a).Worker.PID, status(t, b).Worker.PID} {
					if !knows(t, g) {
						t.Error("a worker asks before each read")
					}
				}
				address := netip.AddrPortFrom(l.b.IP4, 7000)
				if wire == api.WirePort {
					address = netip.AddrPortFrom(l.b.IP6, 7000)
				}
				for range 2 {
					l.mark(l.a, l.b, address, m, false)
					if !m.Late {
						l.mark(l.a, l.b, address, m, true)
					}
				}
				connection(t, a, "the last one", func(c *api.Connection) bool { return c.Destination == address && c.Encrypted })
			})
		}
	}
}

// TestUrgentDataOfANextWorker: also a worker that takes the place of another knows of urgent data.
func TestUrgentDataOfANextWorker(t *testing.T) {
	l := newLab(t)
	a := l.gateway(l.spec(l.a))
	l.gateway(l.spec(l.b))
	address := netip.AddrPortFrom(l.b.IP4, 7000)
	pids := []int{status(t, a).Worker.PID}
	for restarts := range 2 {
		must.Do(t, syscall.Kill(pids[restarts], syscall.SIGKILL))
		awaitStatus(t, a, "there is the next worker", func(s *api.Status) bool {
			return s.State == api.Ready && s.Worker.Restarts == restarts+1 && !slices.Contains(pids, s.Worker.PID)
		})
		pids = append(pids, status(t, a).Worker.PID)
		if !knows(t, pids[restarts+1]) {
			t.Error("the next worker asks before each read")
		}
		l.mark(l.a, l.b, address, marking{Before: 5}, false)
	}
}

// TestUrgentDataByTheStandard: where a pointer is not at the urgent byte but at the next one, the worker asks before each read.
func TestUrgentDataByTheStandard(t *testing.T) {
	l := newLab(t)
	must.Do(t, l.a.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_stdurg", []byte("1"), 0) }))
	if knows(t, status(t, l.gateway(l.spec(l.a))).Worker.PID) {
		t.Error("it does not")
	}
}
