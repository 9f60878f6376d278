//go:build linux

package supervisor

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// refusedLines bounds the log lines a second about connections that were refused at their SYN:
// everybody can send SYNs, from every address.
const refusedLines = 100

// follow starts to follow what the pod's network and the programs report, until the function that it
// returns is called, or ctx is done. The function waits for the end.
func (s *supervisor) follow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { s.followNetwork(ctx) })
	following.Go(func() { s.followRefused(ctx) })
	return sync.OnceFunc(func() {
		cancel()
		following.Wait()
	})
}

// followNetwork keeps the programs and the routes of the gateway's addresses at all interfaces of the pod, those that it gets later
// included.
func (s *supervisor) followNetwork(ctx context.Context) {
	followed := func(err error) {
		if err != nil {
			s.Log.Error("a change of the pod's network could not be followed", "error", err)
		}
		s.rest.Reset(restAfter)
	}
	if err := s.programs.FollowNetwork(ctx, followed); err != nil {
		followed(err)
	}
}

// followRefused counts and logs connections in plaintext that the programs refused, as the worker
// does for those that it resets.
func (s *supervisor) followRefused(ctx context.Context) {
	lines := rate.NewLimiter(refusedLines, refusedLines)
	notLogged := 0
	if err := s.programs.FollowRefused(ctx, func(client, server netip.AddrPort) {
		defer s.rest.Reset(restAfterMany)
		counts := s.traffic.Of(traffic.Inbound)
		counts.Refused.Add(1)
		counts.Because(traffic.Plaintext)
		s.refused.add(client.Addr(), server.Port(), time.Now())
		if !s.Budget.Wants(journal.Refusal) {
			return
		}
		if !lines.Allow() {
			notLogged++
			return
		}
		if notLogged > 0 {
			s.Refusals.Warn("more connections in plaintext were refused", "notLogged", notLogged)
			notLogged = 0
		}
		s.Refusals.Warn(api.ConnectionMessage, "direction", api.Inbound, "source", client, "destination", server,
			"wire", api.WireNone, "encrypted", false, "reason", traffic.Plaintext.String(),
			"bytesSent", 0, "bytesReceived", 0, "duration", 0)
	}); err != nil {
		s.Log.Error("connections that are refused are not logged", "error", err)
	}
}

// refusedStrangers remembers the api.MaxStrangers clients that were last refused.
type refusedStrangers struct {
	mu    sync.Mutex
	known []api.Stranger // the one last seen at the end
}

func (r *refusedStrangers) add(client netip.Addr, port uint16, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := api.Stranger{Client: client, Port: port}
	if i := slices.IndexFunc(r.known, func(k api.Stranger) bool { return k.Client == client && k.Port == port }); i >= 0 {
		s = r.known[i]
		r.known = slices.Delete(r.known, i, i+1)
	} else if len(r.known) == api.MaxStrangers {
		r.known = slices.Delete(r.known, 0, 1)
	}
	s.Connections++
	s.LastSeen = now
	r.known = append(r.known, s)
}

// list returns them, the one last seen first.
func (r *refusedStrangers) list() []api.Stranger {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.known)
	slices.Reverse(list)
	return list
}
