//go:build linux

package sniff

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
)

// header4 and header6 are IP headers, with four bytes of options in the former,
// and the two ports behind them.
func header4(protocol byte, fragment byte, from, to uint16) []byte {
	b := make([]byte, 24, 28)
	b[0], b[7], b[9] = 0x46, fragment, protocol
	return append(b, byte(from>>8), byte(from), byte(to>>8), byte(to))
}

func header6(next byte, from, to uint16) []byte {
	b := make([]byte, 40, 44)
	b[0], b[6] = 0x60, next
	return append(b, byte(from>>8), byte(from), byte(to>>8), byte(to))
}

func TestPortFilter(t *testing.T) {
	ports := make([]uint16, MaxPorts)
	for i := range ports {
		ports[i] = uint16(8000 + i)
	}
	program := must.Get(portFilter(ports))(t)
	vm := must.Get(bpf.NewVM(program))(t)
	for _, c := range []struct {
		name   string
		packet []byte
		want   bool
	}{
		{"tcp to", header4(6, 0, 1, 8000), true},
		{"tcp from", header4(6, 0, 8031, 1), true},
		{"udp to", header4(17, 0, 1, 8031), true},
		{"another port", header4(6, 0, 1, 8032), false},
		{"icmp", header4(1, 0, 1, 8000), false},
		{"a later fragment", header4(6, 9, 1, 1), true},
		{"tcp6 to", header6(6, 1, 8000), true},
		{"udp6 from", header6(17, 8031, 1), true},
		{"another port 6", header6(6, 1, 7999), false},
		{"icmp6", header6(58, 1, 8000), false},
		{"extension header", header6(44, 1, 1), true},
		{"arp", []byte{0, 1, 8, 0, 6, 4, 0, 1}, false},
		{"nothing", nil, false},
	} {
		n, err := vm.Run(c.packet)
		if err != nil && len(c.packet) > 0 {
			t.Errorf("%s: %v", c.name, err)
		}
		if n > 0 != c.want {
			t.Errorf("%s: taken %v", c.name, n > 0)
		}
	}
	// The port of captured connections stands for those that are spread.
	vm = must.Get(bpf.NewVM(must.Get(portFilter([]uint16{api.CapturePort}))(t)))(t)
	for port, want := range map[uint16]bool{api.CapturePort: true, api.FirstSpreadPort - 1: false, api.FirstSpreadPort: true, 1<<16 - 1: true, api.CapturePort + 1: false} {
		for _, packet := range [][]byte{header4(6, 0, 1, port), header4(6, 0, port, 1), header6(6, 1, port), header6(6, port, 1)} {
			if n, err := vm.Run(packet); err != nil || n > 0 != want {
				t.Errorf("port %d: taken %v, %v", port, n > 0, err)
			}
		}
	}
	if _, err := portFilter(make([]uint16, MaxPorts+1)); err == nil {
		t.Error("too many ports are taken")
	}
}

// recording is packets being recorded in a node.
type recording struct {
	t    *testing.T
	stop context.CancelFunc
	done chan error
	data bytes.Buffer
	// slow holds up the writer while it is locked.
	slow sync.Mutex
}

// record starts a recording and returns once it has begun.
func record(t *testing.T, n *netlab.Node, o Options) *recording {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &recording{t: t, stop: cancel, done: make(chan error, 1)}
	begun := make(chan struct{}, 1)
	go func() {
		r.done <- n.Do(func() error {
			return Run(ctx, writerFunc(func(p []byte) (int, error) {
				select {
				case begun <- struct{}{}:
				default:
				}
				r.slow.Lock()
				defer r.slow.Unlock()
				return r.data.Write(p)
			}), o)
		})
	}()
	select {
	case <-begun:
	case err := <-r.done:
		t.Fatal(err)
	}
	return r
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// seen is where a text was recorded, by interface.
type seen struct {
	packets map[string]int
	stats   pcapng.Statistics
}

func (r *recording) end(text string) seen {
	r.t.Helper()
	r.stop()
	return r.wait(text)
}

func (r *recording) wait(text string) seen {
	r.t.Helper()
	must.Do(r.t, <-r.done)
	in := pcapng.NewReader(&r.data)
	s := seen{packets: map[string]int{}}
	for {
		b, err := in.Next()
		if err == io.EOF {
			return s
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if p := b.Packet; p != nil && bytes.Contains(p.Data, []byte(text)) {
			s.packets[in.Interfaces()[p.Interface].Name]++
			if age := time.Since(p.Time); age < 0 || age > time.Hour {
				r.t.Errorf("a packet is %v old", age)
			}
		}
		if b.Statistics != nil {
			s.stats.Received += b.Statistics.Received
			s.stats.Dropped += b.Statistics.Dropped
		}
	}
}

// say sends text from a node to an address, where a listener takes it.
func say(t *testing.T, from, to *netlab.Node, address, text string) {
	t.Helper()
	l := must.Get(to.Listen("tcp", address))(t)
	defer l.Close()
	c := must.Get(from.Dial("tcp", address))(t)
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	accepted := must.Get(l.Accept())(t)
	defer accepted.Close()
	if got, err := io.ReadAll(accepted); err != nil || string(got) != text {
		t.Fatalf("received %q, %v", got, err)
	}
}

func TestCaptures(t *testing.T) {
	lab := netlab.New(t, 2)
	a, b := lab.Node(0), lab.Node(1)
	const text = "canary-of-the-capture"
	everywhere := record(t, a, Options{})
	port := record(t, a, Options{Ports: []uint16{7001}})
	loopback := record(t, a, Options{Interface: "lo"})
	for _, address := range []string{b.Addr(7001), b.Addr6(7001), b.Addr(7002)} {
		say(t, a, b, address, text)
	}
	say(t, a, a, "127.0.0.1:7001", text)
	for name, c := range map[string]struct {
		r        *recording
		lo, eth0 int
	}{"everywhere": {everywhere, 1, 3}, "port": {port, 1, 2}, "loopback": {loopback, 1, 0}} {
		got := c.r.end(text)
		if got.packets["lo"] != c.lo || got.packets["eth0"] != c.eth0 {
			t.Errorf("%s: recorded at %v, want %d on lo and %d on eth0", name, got.packets, c.lo, c.eth0)
		}
		if got.stats.Received == 0 || got.stats.Dropped != 0 {
			t.Errorf("%s: statistics %+v", name, got.stats)
		}
	}
}

func TestBounds(t *testing.T) {
	lab := netlab.New(t, 2)
	a, b := lab.Node(0), lab.Node(1)
	text := strings.Repeat("x", 1000) + "end"
	cut := record(t, a, Options{SnapLen: 100})
	full := record(t, a, Options{MaxBytes: 500})
	say(t, a, b, b.Addr(7001), text)
	if got := cut.end("xend"); len(got.packets) != 0 {
		t.Errorf("the end of long packets is recorded: %v", got.packets)
	}
	// It ends by itself.
	if got := full.wait("x"); got.stats.Received == 0 {
		t.Errorf("statistics %+v", got.stats)
	}
	if err := Run(t.Context(), io.Discard, Options{Interface: "nonesuch"}); err == nil {
		t.Error("an interface that is not there is recorded")
	}
}

// TestReadsWhatHasArrived ends a recording that could not keep up: what was there
// before the end is in it all the same.
func TestReadsWhatHasArrived(t *testing.T) {
	lab := netlab.New(t, 2)
	a, b := lab.Node(0), lab.Node(1)
	r := record(t, a, Options{})
	r.slow.Lock()
	for range 3 {
		say(t, a, b, b.Addr(7001), "late-canary")
	}
	r.stop()
	r.slow.Unlock()
	if got := r.wait("late-canary"); got.packets["eth0"] != 3 {
		t.Errorf("recorded at %v", got.packets)
	}
}
