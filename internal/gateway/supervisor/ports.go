//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/existing"
)

const (
	// PortTimeout is how long a gateway waits for a port that another socket of the pod holds. An
	// ephemeral container can be neither restarted nor removed: one that ended at once would be
	// followed by another one with each attempt.
	PortTimeout = 10 * time.Minute
	// connectionGrace is how long a connection may hold a port before somebody is told: it is
	// expected to end, and TIME_WAIT lasts a minute.
	connectionGrace = 10 * time.Second
	// portInterval is how often a port is tried.
	portInterval = 200 * time.Millisecond
)

// portHeld says that another socket holds a port that the gateway listens on.
type portHeld struct {
	address netip.AddrPort
	// holders may be empty: the kernel does not list all sockets.
	holders []existing.Holder
}

func (e *portHeld) Error() string {
	who := "a socket that is bound and does not listen"
	if len(e.holders) > 0 {
		who = e.holders[0].String()
	}
	if n := len(e.holders) - 1; n > 0 {
		who += fmt.Sprintf(", and %d more", n)
	}
	return fmt.Sprintf("port %d is held by %s", e.address.Port(), who)
}

// listens reports whether a holder will hardly end by itself.
func (e *portHeld) listens() bool { return len(e.holders) == 0 || e.holders[0].Listens }

// errEndedMeanwhile ends a gateway that was to end before it came to listen.
var errEndedMeanwhile = errors.New("the gateway was ended before it could listen")

// whenFree calls listen, which listens at address, until nobody else holds the port, for at most
// Options.PortTimeout. Meanwhile the gateway's status says who does.
func (s *supervisor) whenFree(ctx context.Context, address netip.AddrPort, listen func() error) error {
	started := time.Now()
	ticker := time.NewTicker(portInterval)
	defer ticker.Stop()
	said := ""
	for {
		err := listen()
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			if said != "" {
				s.update(func(st *api.Status) { st.Reason = "" })
			}
			return err
		}
		held := s.holders(address)
		waited := time.Since(started)
		if waited > s.PortTimeout {
			return api.WithHint(held, "a gateway needs TCP port 18443 of its pod, and on loopback one from 18000 to 18007 and one from 18444 to 18452: move what listens there, or close the connection")
		}
		if text := held.Error(); text != said && (held.listens() || waited > connectionGrace) {
			said = text
			s.Log.Warn("the gateway waits for a port", "reason", said)
			s.update(func(st *api.Status) { st.Reason = said })
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errEndedMeanwhile
		case <-s.Terminate:
			return errEndedMeanwhile
		case <-s.end.begun:
			return errEndedMeanwhile
		}
	}
}

// holders returns who holds a port, as far as that can be seen.
func (s *supervisor) holders(address netip.AddrPort) *portHeld {
	held := &portHeld{address: address}
	pod, own, err := bpf.PodCgroup(s.settings.config.Pod.UID)
	if err != nil {
		return held // load says so
	}
	finder := existing.Finder{Pod: pod, Own: own}
	if held.holders, err = finder.Holders(address); err != nil {
		s.Log.Warn("who holds a port is unknown", "port", address.Port(), "error", strings.TrimSpace(err.Error()))
	}
	return held
}
