//go:build linux

package main

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/confine"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/governor"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/knock"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/proxy"
)

// runWorker runs the unprivileged half of a gateway. The supervisor starts it.
func runWorker(ctx context.Context, args []string) error {
	// Until there is traffic it is as small as the supervisor. The governor starts there, too.
	processors := runtime.GOMAXPROCS(1)
	if err := confine.HideMemory(); err != nil {
		return err
	}
	// The first signal ends the worker when its connections have ended, the second one at
	// once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, handoff.HandedOver, os.Interrupt)

	takenOver := make(chan os.Signal, 1)
	signal.Notify(takenOver, handoff.TakenOver)
	after := make(chan struct{})
	go func() {
		<-takenOver
		close(after)
	}()

	from, material, err := handoff.InheritWorker(args)
	if err != nil {
		return err
	}
	var peersAfter <-chan struct{}
	if from.Shared == handoff.SharedPeer {
		peersAfter = after
	}
	config, certificate, roots, err := material.Settings()
	if err != nil {
		return err
	}
	var gates []proxy.Gate
	for _, socket := range from.Waiting {
		g, err := knock.New(socket, sockets{})
		if err != nil {
			return err
		}
		gates = append(gates, g)
	}
	log := proxy.NewLogger(os.Stdout, &from.Counters.Log, from.Spool)
	var sources netip.Prefix
	if from.Sources6 {
		sources = bpf.Sources6()
	}
	program := memory.OwnProgram()
	own := memory.OpenOwn()
	var p *proxy.Proxy
	resting := func() {
		program.Tidy()
		if own.Grown() > muchGrown && p.Idle() {
			_ = from.WishReplacement() // without an answer it goes on
		}
		program.Drop()
	}
	options := proxy.Options{
		Config: config, Certificate: certificate, Roots: roots,
		Capture: from.Capture, Peer: from.Peer, Inband: from.Inband, Gates: gates,
		PeersAfter: peersAfter, Sources6: sources, Sockets: sockets{}, Log: log, Counters: from.Counters, Memory: memory.NewBudget(from.Memory),
		Resting:      resting,
		Quiet:        program.Drop,
		DrainTimeout: math.MaxInt64, // the supervisor decides how long
	}
	if from.Urgent != nil {
		if options.Urgent, err = bpf.MapUrgent(from.Urgent); err != nil {
			return err
		}
		from.Urgent.Close()
	}
	if p, err = proxy.New(options); err != nil {
		return err
	}
	if err := revoke(p, config, material); err != nil {
		return err
	}
	// Nothing has come from the network yet.
	confinement, notConfined := confine.Apply(confine.Worker)
	// What starting up allocated is not needed again, nor is most of the code.
	time.AfterFunc(time.Second, func() {
		program.Tidy()
		own.Grown()
		program.Drop()
	})
	if err := from.Ready(confinement); err != nil {
		return err
	}
	if from.Shared == handoff.SharedAll {
		select {
		case <-after:
		case <-signals:
			return nil
		}
	}
	// Until here the lines in the spool may be another worker's.
	defer log.Close(context.WithoutCancel(ctx))
	if notConfined != nil {
		log.Slog().Error("the worker goes on with less confinement", "error", notConfined.Error())
	}
	go func() {
		if err := handoff.ServeEdges(ctx, from.Edges, p.Edges); err != nil {
			log.Slog().Error("the edges of this gateway cannot be read", "error", err.Error())
		}
	}()
	runtime.GOMAXPROCS(processors)
	return serve(ctx, p, from, log, program, signals)
}

// muchGrown is by how many bytes an idle worker must have grown for a fresh one to be worth its start: a few connections take
// two thirds of that for good, and 400 at a time three times as much.
const muchGrown = 1 << 20

// errBusy is why a worker does not stop accepting.
var errBusy = errors.New("a connection is open")

// revoke has p refuse the certificates that m says are revoked. The supervisor has checked that.
func revoke(p *proxy.Proxy, config *api.Config, m *handoff.Material) error {
	revoked, err := m.Revocations(config.TrustDomain)
	if err == nil {
		p.Revoke(revoked)
	}
	return err
}

// orphanDrain is how long connections may go on in a worker that has lost its supervisor.
const orphanDrain = 5 * time.Second

// handedOverLinger is for handshakes that began before another gateway took over, with two lost packets:
// the kernel sends a SYN-ACK again after one second and after two more.
const handedOverLinger = 5 * time.Second

// serve carries connections until the first of signals, and applies new settings meanwhile. A
// worker that has lost its supervisor ends, because its settings may be old.
func serve(ctx context.Context, p *proxy.Proxy, from *handoff.Worker, log *proxy.Logger, program memory.Program, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if <-signals == handoff.HandedOver {
			p.Linger(handedOverLinger)
		}
		cancel(nil)
		<-signals
		p.Abort()
	}()
	governed := make(chan struct{})
	go func() {
		defer close(governed)
		if err := governor.Run(ctx, p.FitMemory, program.Tidy); err != nil {
			log.Slog().Warn("the scheduler is not adapted to the traffic", "error", err.Error())
		}
	}()
	followed := make(chan error, 1)
	go func() {
		err := from.Follow(ctx, func(m *handoff.Material) error {
			if m.Quiesce {
				if !p.Quiesce() {
					return errBusy
				}
				return nil
			}
			config, certificate, roots, err := m.Settings()
			if err != nil {
				return err
			}
			if err := p.Update(config, certificate, roots); err != nil {
				return err
			}
			if err := revoke(p, config, m); err != nil {
				return err
			}
			if m.Reset {
				p.ResetForbidden()
			}
			return nil
		})
		if err != nil {
			time.AfterFunc(orphanDrain, p.Abort)
		}
		cancel(err)
		followed <- err
	}()
	err := p.Serve(ctx)
	cancel(nil)
	<-governed
	return errors.Join(err, <-followed)
}

// sockets asks the eBPF programs through options of the sockets themselves,
// which needs no privilege.
type sockets struct{}

func (sockets) OriginalDestination(fd int) (netip.AddrPort, bool, error) {
	return bpf.OriginalDestination(fd)
}

func (sockets) PresentAs(fd int, client netip.AddrPort) error { return bpf.PresentAs(fd, client) }

func (sockets) HandedOver(fd int) (done, established bool, err error) { return bpf.HandedOver(fd) }

func (sockets) FromOutside(fd int) (bool, error) { return bpf.FromOutside(fd) }

func (sockets) UrgentAt(fd int) (place uint64, err error) { return bpf.UrgentAt(fd) }

func (sockets) Tuning(fd int) (tuning.Tuning, error) { return bpf.TuningOf(fd) }

func (sockets) Waiting(fd int, client, listener netip.AddrPort) (netip.AddrPort, bool, error) {
	return bpf.Waiting(fd, client, listener)
}

func (sockets) Admit(fd int, client, listener netip.AddrPort) error {
	return bpf.Admit(fd, client, listener)
}

func (sockets) NoteDestination(fd int, destination netip.AddrPort, works bool) error {
	return bpf.NoteDestination(fd, destination, works)
}

func (sockets) MarkInband(fd, syns int) error { return bpf.MarkInband(fd, syns) }

func (sockets) Negotiated(fd int) (shown, givenUp bool, err error) { return bpf.Negotiated(fd) }

func (sockets) Answered(fd int) (gateway uint32, port uint16, err error) { return bpf.Answered(fd) }
