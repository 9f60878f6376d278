//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/confine"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/supervisor"
	"github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

// selfPath is this program, even if its file is not visible.
const selfPath = "/proc/self/exe"

// supervise runs the privileged half of a gateway.
func supervise(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	timeout := flags.Duration("certificate-timeout", supervisor.CertificateTimeout,
		"end after so long without a certificate")
	portTimeout := flags.Duration("port-timeout", supervisor.PortTimeout, "end after so long without a port that the pod uses otherwise")
	recycleInterval := flags.Duration("recycle-interval", supervisor.RecycleInterval,
		"replace an idle worker that has grown at most once in so long; 0 is never")
	if err := flags.Parse(args); err != nil {
		return err
	}
	material, err := takeMaterial()
	if err == nil {
		err = superviseWith(ctx, material, *timeout, *portTimeout, *recycleInterval)
	}
	// The last words in a container are those of the gateway that runs there.
	if err != nil && !errors.Is(err, control.ErrRuns) {
		supervisor.WriteTerminationMessage(supervisor.TerminationMessagePath, err)
	}
	if errors.Is(err, supervisor.ErrDisabled) || errors.Is(err, supervisor.ErrHandedOver) {
		return nil
	}
	return err
}

// takeMaterial moves the material from the environment to a sealed memory file, so that
// /proc/<pid>/environ does not hold the key for the pod's life.
func takeMaterial() (*os.File, error) {
	m, err := handoff.MaterialFromEnv(os.LookupEnv)
	if err != nil {
		return nil, err
	}
	if err := forgetKey(); err != nil {
		return nil, fmt.Errorf("taking the key out of the environment: %w", err)
	}
	return m.Seal()
}

// statusPort returns the port that the container's description names for the status, 0 for none.
func statusPort() uint16 {
	var port api.StatusPort
	if json.Unmarshal([]byte(os.Getenv(api.EnvStatusPort)), &port) != nil {
		return 0
	}
	return port.Port
}

func superviseWith(ctx context.Context, material *os.File, certificateTimeout, portTimeout, recycleInterval time.Duration) error {
	if err := confine.HideMemory(); err != nil {
		return err
	}
	// It has little to do: threads that wait for work, and wake each other up, are a tenth of what its start costs.
	runtime.GOMAXPROCS(1)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	terminate := make(chan struct{})
	go func() {
		<-signals
		close(terminate)
	}()
	var budget journal.Budget
	log := journal.NewWriter(os.Stdout, &budget, api.LogSupervisor)
	if err := memory.SmallPages(); err != nil {
		log.Slog(journal.State).Warn("the gateway takes more memory than it needs", "error", err.Error())
	}
	err := supervisor.Run(ctx, supervisor.Options{
		Material:        material,
		LoaderCommand:   []string{selfPath, "loader"},
		WorkerCommand:   []string{selfPath, "worker"},
		ExporterCommand: []string{selfPath, "exporter"},
		SocketPath:      control.SocketPath,
		StatusPort:      statusPort(),
		Version:         version.String(),
		Log:             log.Slog(journal.State),
		Refusals:        log.Slog(journal.Refusal),
		Budget:          &budget,
		Terminate:       terminate,

		CertificateTimeout: certificateTimeout,
		PortTimeout:        portTimeout,
		RecycleInterval:    recycleInterval,
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
