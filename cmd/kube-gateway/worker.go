//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/supervisor"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/proxy"
)

// runWorker runs the unprivileged half, with the files that the supervisor
// hands over.
func runWorker(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	captureListeners := flags.Int("capture-listeners", 0, "number of inherited capture listeners")
	inbandListeners := flags.Int("inband-listeners", 0, "number of inherited in-band listeners")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// Containers that share the PID namespace and run as the same user could
	// otherwise read the key from this process's memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protecting the worker's memory: %w", err)
	}
	// The first signal ends the worker when its connections have ended, another
	// one at once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)

	files, err := supervisor.InheritedFiles(*captureListeners, *inbandListeners)
	if err != nil {
		return err
	}
	log := proxy.NewLogger(os.Stdout)
	defer log.Close(context.WithoutCancel(ctx))
	options, err := workerOptions(files)
	if err != nil {
		return err
	}
	options.Log = log
	options.DrainTimeout = math.MaxInt64 // the supervisor knows how long
	p, err := proxy.New(*options)
	if err != nil {
		return err
	}
	// What starting up allocated is not needed again.
	debug.FreeOSMemory()
	go func() {
		if err := supervisor.ServeEdges(ctx, files.Edges, p.Edges); err != nil {
			log.Slog().Error("nobody is told who this gateway talks to", "error", err.Error())
		}
	}()
	if err := files.Ready(); err != nil {
		return err
	}
	return serve(ctx, p, files, log, signals)
}

// orphanDrain is how long connections may go on in a worker whose supervisor is
// out of reach.
const orphanDrain = 5 * time.Second

// serve carries connections until the first of signals, and takes new settings
// meanwhile. A worker that the supervisor cannot reach any more must not go on
// with old ones.
func serve(ctx context.Context, p *proxy.Proxy, files *supervisor.WorkerFiles, log *proxy.Logger, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		<-signals
		cancel(nil)
		<-signals
		p.Abort()
	}()
	governed := make(chan struct{})
	go func() {
		defer close(governed)
		if err := proxy.Govern(ctx); err != nil {
			log.Slog().Warn("the scheduler is not fitted to the traffic", "error", err.Error())
		}
	}()
	followed := make(chan error, 1)
	go func() {
		err := files.Follow(ctx, func(m *supervisor.Material) error {
			s, err := readSettings(m)
			if err != nil {
				return err
			}
			return p.Update(s.config, s.certificate, s.roots)
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

// settings is what a proxy runs with and can change while it does.
type settings struct {
	config      *api.Config
	certificate tls.Certificate
	roots       *x509.CertPool
}

func readSettings(m *supervisor.Material) (*settings, error) {
	config, err := api.ParseConfig(m.Config)
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(m.CA) {
		return nil, errors.New("the trust bundle holds no certificate")
	}
	return &settings{config, certificate, roots}, nil
}

func workerOptions(files *supervisor.WorkerFiles) (*proxy.Options, error) {
	// An old key must not stay in reach once there is a new one.
	defer files.Material.Close()
	m, err := supervisor.ReadMaterial(files.Material)
	if err != nil {
		return nil, err
	}
	s, err := readSettings(m)
	if err != nil {
		return nil, err
	}
	counters, err := proxy.MapCounters(files.Counters)
	if err != nil {
		return nil, err
	}
	options := &proxy.Options{
		Config: s.config, Certificate: s.certificate, Roots: s.roots,
		Sockets: sockets{}, Counters: counters,
	}
	if options.Peer, err = listener(files.Peer); err != nil {
		return nil, err
	}
	if options.Capture, err = listeners(files.Capture); err != nil {
		return nil, err
	}
	if options.Inband, err = listeners(files.Inband); err != nil {
		return nil, err
	}
	return options, nil
}

func listeners(files []*os.File) ([]net.Listener, error) {
	var all []net.Listener
	for _, f := range files {
		ln, err := listener(f)
		if err != nil {
			return nil, err
		}
		all = append(all, ln)
	}
	return all, nil
}

func listener(f *os.File) (net.Listener, error) {
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("taking over the %s: %w", f.Name(), err)
	}
	return ln, nil
}

// sockets asks the eBPF programs through options of the sockets themselves,
// which needs no privilege.
type sockets struct{}

func (sockets) OriginalDestination(fd int) (netip.AddrPort, error) {
	return bpf.OriginalDestination(fd)
}

func (sockets) PresentAs(fd int, client netip.AddrPort) error { return bpf.PresentAs(fd, client) }

func (sockets) MarkInband(fd int) error { return bpf.MarkInband(fd) }

func (sockets) PeerShown(fd int) (bool, error) { return bpf.PeerShown(fd) }
