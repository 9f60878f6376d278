//go:build linux

package existing

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// everything is a gateway's, as far as loopback does not reach.
type everything struct{}

func (everything) Captures(to netip.AddrPort) (bool, error)    { return !to.Addr().IsLoopback(), nil }
func (everything) Guards(_, from netip.AddrPort) (bool, error) { return !from.Addr().IsLoopback(), nil }

// fake is a kernel with some sockets.
type fake struct {
	sockets    []socket
	destroyErr error
}

func (k *fake) dump(states uint32, f func(*socket) bool) error {
	for i := range k.sockets {
		if s := k.sockets[i]; states>>s.state&1 != 0 && !f(&s) {
			break
		}
	}
	return nil
}

func (k *fake) destroy(s *socket) error {
	if k.destroyErr != nil {
		return k.destroyErr
	}
	for i := range k.sockets {
		if k.sockets[i] == *s {
			k.sockets = append(k.sockets[:i], k.sockets[i+1:]...)
			return nil
		}
	}
	return errGone
}

// pod makes the cgroups of a pod with an application and a gateway.
func pod(t *testing.T) (f *Finder, app, gateway uint64) {
	t.Helper()
	n := netlab.New(t, 1).Node(0)
	nested := filepath.Join(n.GatewayCgroup, "init")
	must.Do(t, os.Mkdir(nested, 0o755))
	id := func(path string) bpf.Cgroup {
		c := must.Get(bpf.OpenCgroup(path))(t)
		return c
	}
	return &Finder{Pod: id(n.PodCgroup), Own: id(n.GatewayCgroup), Rules: everything{}}, id(n.AppCgroup).ID, id(nested).ID
}

func at(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

func TestWhatCounts(t *testing.T) {
	f, app, nested := pod(t)
	k := &fake{sockets: []socket{
		{state: tcpListen, cgroup: app, local: at("0.0.0.0:80"), inode: 1},
		{state: tcpListen, cgroup: f.Own.ID, local: at("0.0.0.0:18443"), inode: 1},
	}}
	f.kernel = k
	listeners := len(k.sockets)
	for name, c := range map[string]struct {
		socket
		outbound, inbound int
	}{
		"outbound":                  {socket{state: tcpEstablished, cgroup: app, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1}, 1, 0},
		"inbound":                   {socket{state: tcpEstablished, cgroup: app, local: at("10.0.0.1:80"), remote: at("10.0.0.2:4000"), inode: 1}, 0, 1},
		"not accepted yet":          {socket{state: tcpEstablished, cgroup: app, local: at("10.0.0.1:80"), remote: at("10.0.0.2:4000")}, 0, 1},
		"at the pod's own level":    {socket{state: tcpEstablished, cgroup: f.Pod.ID, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1}, 1, 0},
		"a port of the gateway's":   {socket{state: tcpEstablished, cgroup: app, local: at("10.0.0.1:18443"), remote: at("10.0.0.2:80"), inode: 1}, 1, 0},
		"being made":                {socket{state: tcpSynSent, cgroup: app, local: at("10.0.0.1:80"), remote: at("10.0.0.2:80"), inode: 1}, 1, 0},
		"half-closed":               {socket{state: tcpFinWait2, cgroup: app, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1}, 1, 0},
		"half-closed by the peer":   {socket{state: tcpCloseWait, cgroup: app, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1}, 1, 0},
		"closed by the application": {socket{state: tcpFinWait2, cgroup: app, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80")}, 0, 0},
		"the gateway's":             {socket{state: tcpEstablished, cgroup: f.Own.ID, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1}, 0, 0},
		"the gateway's, nested":     {socket{state: tcpEstablished, cgroup: nested, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1}, 0, 0},
		"nobody's":                  {socket{state: tcpEstablished, cgroup: 1, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1}, 0, 0},
		"captured":                  {socket{state: tcpEstablished, cgroup: app, local: at("10.0.0.1:4000"), remote: at("127.0.0.1:18000"), inode: 1}, 0, 0},
	} {
		k.sockets = append(k.sockets[:listeners:listeners], c.socket)
		e, err := f.Find(t.Context())
		if err != nil || e.Outbound != c.outbound || e.Inbound != c.inbound || len(e.Connections) != c.outbound+c.inbound {
			t.Errorf("%s: %+v, %v", name, e, err)
			continue
		}
		n, err := f.Reset(t.Context())
		if left := len(k.sockets) - listeners; err != nil || n != c.outbound+c.inbound || n+left != 1 {
			t.Errorf("%s: %d were reset and %d are left, %v", name, n, left, err)
		}
	}
}

func TestManyAreListedInPart(t *testing.T) {
	f, app, _ := pod(t)
	k := &fake{sockets: []socket{{state: tcpListen, cgroup: app, local: at("0.0.0.0:80")}}}
	f.kernel = k
	const n = 3 * api.MaxExisting
	for i := range n {
		k.sockets = append(k.sockets, socket{state: tcpEstablished, cgroup: app, inode: 1,
			local: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(4000+i)), remote: at("10.0.0.2:80")})
	}
	if e, err := f.Find(t.Context()); err != nil || e.Outbound != n || len(e.Connections) != api.MaxExisting {
		t.Errorf("%d found, %d listed, %v", e.Outbound, len(e.Connections), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := f.Reset(ctx); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("after the end %d were reset, %v", n, err)
	}
}

func TestKernelsThatLackSomething(t *testing.T) {
	f, app, _ := pod(t)
	f.kernel = &fake{sockets: []socket{{state: tcpListen, local: at("0.0.0.0:80")}}}
	if _, err := f.Find(t.Context()); !errors.Is(err, ErrNoCgroups) || api.Hint(err) == "" {
		t.Errorf("without cgroups: %v", err)
	}
	f.kernel = &fake{destroyErr: api.WithHint(ErrNoDestroy, "hint"), sockets: []socket{
		{state: tcpListen, cgroup: app, local: at("0.0.0.0:80")},
		{state: tcpEstablished, cgroup: app, local: at("10.0.0.1:4000"), remote: at("10.0.0.2:80"), inode: 1},
	}}
	if n, err := f.Reset(t.Context()); n != 0 || !errors.Is(err, ErrNoDestroy) || api.Hint(err) == "" {
		t.Errorf("without SOCK_DESTROY: %d, %v", n, err)
	}
}

// TestRealKernel looks at sockets of this very process, and resets one that is gone.
func TestRealKernel(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	ln := must.Get(n.Listen("tcp", n.Addr(9000)))(t)
	defer ln.Close()
	ln6 := must.Get(n.Listen("tcp", netip.AddrPortFrom(n.IP6, 9000).String()))(t)
	defer ln6.Close()
	conn := must.Get(n.Dial("tcp", n.Addr(9000)))(t)
	defer conn.Close()
	must.Do(t, n.Do(func() error {
		var seen []string
		var one socket
		err := sockDiag{}.dump(1<<tcpListen|1<<tcpEstablished, func(s *socket) bool {
			seen = append(seen, s.local.String())
			if s.cgroup == 0 {
				t.Errorf("%v has no cgroup", s.local)
			}
			if s.local == netip.MustParseAddrPort(conn.LocalAddr().String()) {
				one = *s
			}
			return true
		})
		if err != nil || len(seen) != 4 {
			t.Errorf("saw %q, %v", strings.Join(seen, " "), err)
		}
		if err := (sockDiag{}).destroy(&one); err != nil {
			t.Errorf("resetting a connection: %v", err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("after its reset: %v", err)
		}
		if err := (sockDiag{}).destroy(&one); !errors.Is(err, errGone) {
			t.Errorf("resetting it again: %v", err)
		}
		return nil
	}))
}
