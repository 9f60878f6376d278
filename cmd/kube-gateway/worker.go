//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/proxy"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/supervisor"
)

// runWorker runs the unprivileged half, with the files that the supervisor
// hands over.
func runWorker(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	captureListeners := flags.Int("capture-listeners", 0, "number of inherited capture listeners")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// Containers that share the PID namespace and run as the same user could
	// otherwise read the key from this process's memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protecting the worker's memory: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()

	files := supervisor.InheritedFiles(*captureListeners)
	log := proxy.NewLogger(os.Stdout)
	defer log.Close(context.WithoutCancel(ctx))
	options, err := workerOptions(files)
	if err != nil {
		return err
	}
	options.Log = log
	p, err := proxy.New(*options)
	if err != nil {
		return err
	}
	// What starting up allocated is not needed again.
	debug.FreeOSMemory()
	if err := files.Ready(); err != nil {
		return err
	}
	return p.Serve(ctx)
}

func workerOptions(files *supervisor.WorkerFiles) (*proxy.Options, error) {
	m, err := supervisor.ReadMaterial(files.Material)
	if err != nil {
		return nil, err
	}
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
	counters, err := proxy.MapCounters(files.Counters)
	if err != nil {
		return nil, err
	}
	options := &proxy.Options{
		Config: config, Certificate: certificate, Roots: roots,
		Sockets: sockets{}, Counters: counters,
	}
	if options.Peer, err = listener(files.Peer); err != nil {
		return nil, err
	}
	for _, f := range files.Capture {
		ln, err := listener(f)
		if err != nil {
			return nil, err
		}
		options.Capture = append(options.Capture, ln)
	}
	return options, nil
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
