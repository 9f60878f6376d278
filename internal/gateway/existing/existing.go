//go:build linux

package existing

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Rules say which connections a gateway is responsible for. *bpf.Programs are Rules.
type Rules interface {
	// Captures reports whether the gateway captures connections to destination.
	Captures(destination netip.AddrPort) (bool, error)
	// Guards reports whether the gateway guards inbound connections from remote to local.
	Guards(local, remote netip.AddrPort) (bool, error)
}

// Finder finds connections in the network namespace of the calling thread.
type Finder struct {
	// Pod is the pod's cgroup, Own the gateway's below it.
	Pod, Own bpf.Cgroup
	// Gateways holds the cgroups of the pod's gateways, see bpf.Cgroup.ID: their connections are
	// none of the application.
	Gateways []uint64
	Rules    Rules

	// kernel is sockDiag, or the fake of a test.
	kernel kernel
}

// kernel lists and resets sockets.
type kernel interface {
	// dump calls f with every TCP socket in one of states, until f returns false.
	dump(states uint32, f func(*socket) bool) error
	// destroy resets a connection. errGone means that it has ended by itself.
	destroy(*socket) error
}

var (
	// ErrNoCgroups means that the kernel does not report the cgroup of a socket: before 5.7,
	// or without CONFIG_SOCK_CGROUP_DATA.
	ErrNoCgroups = errors.New("the kernel does not report which cgroup a socket belongs to")
	// ErrNoDestroy means that the kernel lacks CONFIG_INET_DIAG_DESTROY.
	ErrNoDestroy = errors.New("the kernel cannot reset connections of others (CONFIG_INET_DIAG_DESTROY)")
	// ErrNoDiag means that the kernel lacks CONFIG_INET_DIAG.
	ErrNoDiag = errors.New("the kernel does not list sockets (CONFIG_INET_DIAG)")
)

const (
	// batch is how many connections are reset before the kernel lists more. Each takes about
	// 150 bytes meanwhile.
	batch = 1 << 14
	// maxBatches bounds a reset: clients that reconnect at once, in plaintext, must not keep it
	// busy forever.
	maxBatches = 64
)

// found is a connection that should go through the gateway.
type found struct {
	direction string
	socket    socket
}

// Find counts the connections that are open now, and lists the first
// api.MaxExisting of them.
func (f *Finder) Find(ctx context.Context) (*api.ExistingConnections, error) {
	var result api.ExistingConnections
	err := f.each(ctx, func(c found) bool {
		if c.direction == api.Inbound {
			result.Inbound++
		} else {
			result.Outbound++
		}
		if len(result.Connections) < api.MaxExisting {
			result.Connections = append(result.Connections, api.ExistingConnection{
				Direction: c.direction, Local: c.socket.local, Remote: c.socket.remote,
			})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("looking for existing connections: %w", err)
	}
	return &result, nil
}

// Reset resets the connections that are open now, and returns how many. Both ends
// get an error: ECONNABORTED in the pod, ECONNRESET at the other end.
func (f *Finder) Reset(ctx context.Context) (int, error) {
	done := 0
	for range maxBatches {
		var some []socket
		err := f.each(ctx, func(c found) bool {
			some = append(some, c.socket)
			return len(some) < batch
		})
		if err != nil {
			return done, fmt.Errorf("looking for existing connections: %w", err)
		}
		n, err := f.destroy(ctx, some)
		done += n
		if err != nil {
			return done, fmt.Errorf("resetting existing connections: %w", err)
		}
		if len(some) < batch {
			break
		}
	}
	return done, nil
}

func (f *Finder) destroy(ctx context.Context, some []socket) (done int, err error) {
	for i := range some {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		err := f.system().destroy(&some[i])
		switch {
		case err == nil:
			done++
		case errors.Is(err, errGone):
		default:
			return done, err
		}
	}
	return done, nil
}

func (f *Finder) system() kernel {
	if f.kernel != nil {
		return f.kernel
	}
	return sockDiag{}
}

// open are the states in which the application can still send or receive data.
const open = 1<<tcpEstablished | 1<<tcpSynSent | 1<<tcpFinWait1 | 1<<tcpFinWait2 | 1<<tcpCloseWait

// each calls visit with one connection after the other until it returns false.
func (f *Finder) each(ctx context.Context, visit func(found) bool) error {
	pod, err := podCgroups(f.Pod.Path, f.Own.Path, f.Gateways)
	if err != nil {
		return err
	}
	listeners := make(map[uint16]struct{})
	known := false
	if err := f.system().dump(1<<tcpListen, func(s *socket) bool {
		known = known || s.cgroup != 0
		if _, ours := pod[s.cgroup]; ours {
			listeners[s.local.Port()] = struct{}{}
		}
		return ctx.Err() == nil
	}); err != nil {
		return err
	}
	// The gateway's own listeners are always there.
	if !known {
		return api.WithHint(ErrNoCgroups, "Linux reports it since 5.7, with CONFIG_SOCK_CGROUP_DATA")
	}
	var failed error
	if err := f.system().dump(open, func(s *socket) bool {
		if failed = ctx.Err(); failed != nil {
			return false
		}
		if _, ours := pod[s.cgroup]; !ours || s.abandoned() {
			return true
		}
		c := found{direction: api.Outbound, socket: *s}
		var concerned bool
		if _, listens := listeners[s.local.Port()]; listens && s.state != tcpSynSent {
			c.direction = api.Inbound
			concerned, failed = f.Rules.Guards(s.local, s.remote)
		} else {
			concerned, failed = f.Rules.Captures(s.remote)
		}
		return failed == nil && (!concerned || visit(c))
	}); err != nil {
		return err
	}
	if failed == nil {
		failed = ctx.Err()
	}
	return failed
}
