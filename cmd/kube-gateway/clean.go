//go:build linux

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/supervisor"
)

// clean removes what a dead gateway left in the pod. It runs in a container of its own in that
// pod: a dead gateway that fails closed cannot be disabled.
func clean(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("clean", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := control.Free(control.SocketPath); err != nil {
		return err
	}
	err := cleanPod(ctx, stdout)
	supervisor.WriteTerminationMessage(supervisor.TerminationMessagePath, cmp.Or(err, supervisor.ErrDisabled))
	return err
}

func cleanPod(ctx context.Context, stdout io.Writer) error {
	config, err := api.ConfigFromEnv(os.LookupEnv)
	if err != nil {
		return api.WithHint(err, "this is started by 'kubectl gateway disable', not by hand")
	}
	done, err := supervisor.Clean(ctx, config)
	if err != nil {
		return err
	}
	if done.Undone != nil {
		fmt.Fprintf(stdout, "warning: %v\n", done.Undone)
	}
	fmt.Fprintf(stdout, "removed %d programs and %d filters\n", done.Programs, done.Filters)
	return nil
}
