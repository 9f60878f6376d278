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
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/confine"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/supervisor"
	"github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

// supervisorGC keeps the heap of a process with little to do small, in percent (see
// runtime/debug.SetGCPercent).
const supervisorGC = 20

// selfPath is this program, even if its file is not visible.
const selfPath = "/proc/self/exe"

// supervise runs the privileged half of a gateway. It starts in two steps: the first moves the key
// out of the environment and executes the program again with a clean one, so that
// /proc/<pid>/environ does not hold the key for the rest of the pod's life.
func supervise(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	materialFD := flags.Int("material-fd", -1, "file descriptor of the sealed material (internal)")
	timeout := flags.Duration("certificate-timeout", supervisor.CertificateTimeout,
		"end after so long without a certificate")
	portTimeout := flags.Duration("port-timeout", supervisor.PortTimeout, "end after so long without a port that the pod uses otherwise")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if *materialFD < 0 {
		err = replaceSelf(args)
	} else {
		err = superviseWith(ctx, os.NewFile(uintptr(*materialFD), "material"), *timeout, *portTimeout)
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

// replaceSelf moves the material from the environment to a sealed memory file
// and executes this program again. It returns only on failure.
func replaceSelf(args []string) error {
	m, err := handoff.MaterialFromEnv(os.LookupEnv)
	if err != nil {
		return err
	}
	f, err := m.Seal()
	if err != nil {
		return err
	}
	// The duplicate is not closed on exec.
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		return fmt.Errorf("keeping the material across exec: %w", err)
	}
	argv := append([]string{os.Args[0], "supervise", fmt.Sprintf("--material-fd=%d", fd)}, args...)
	err = unix.Exec(selfPath, argv, handoff.WithoutMaterial(os.Environ()))
	return fmt.Errorf("executing %s: %w", selfPath, err)
}

// statusPort returns the port that the container's description names for the status, 0 for none.
func statusPort() uint16 {
	var port api.StatusPort
	if json.Unmarshal([]byte(os.Getenv(api.EnvStatusPort)), &port) != nil {
		return 0
	}
	return port.Port
}

func superviseWith(ctx context.Context, material *os.File, certificateTimeout, portTimeout time.Duration) error {
	unix.CloseOnExec(int(material.Fd()))
	if err := confine.HideMemory(); err != nil {
		return err
	}
	debug.SetGCPercent(supervisorGC)
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
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
