//go:build linux

package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// loadApart has a process of its own load the programs, which hands them over and ends: what that takes, 12 MiB for 50 ms, is gone
// with it. It has the privileges of this process, its oom_score_adj included, because there is no gateway without it, but nothing of
// its environment and its open files. If this process ends before, what is loaded has no owner, and the kernel frees it. A loader
// ends itself after a minute, and is killed when ctx is done.
func (s *supervisor) loadApart(ctx context.Context) (*bpf.Loaded, error) {
	conn, start, err := handoff.ForLoader()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	command := slices.Concat(s.LoaderCommand, []string{strconv.FormatInt(s.memory.limit(), 10)})
	loader := exec.CommandContext(ctx, command[0], command[1:]...)
	loader.Env, loader.Dir, loader.Stderr, loader.ExtraFiles = []string{}, "/", os.Stderr, start.Files
	err = loader.Start()
	start.Close()
	if err != nil {
		return nil, fmt.Errorf("starting the loader: %w", err)
	}
	loaded, err := bpf.ReceiveLoaded(conn)
	if err == nil {
		// It has nothing to do any more but to end.
		s.background.Go(func() { _ = loader.Wait() })
		return loaded, nil
	}
	switch end := loader.Wait(); {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("the loader ended: %w", cmp.Or(end, err))
	}
	return nil, err
}
