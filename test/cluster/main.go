//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

const usage = `usage: cluster VERB

  up [--nodes N] [--spare N] [--timeout D]
                                start the cluster (default 2 nodes, and 1 that can join later);
                                harmless when it is up
  nodes N                       let spare nodes join, or the last ones leave, until there are N
  down                          stop it and remove everything that up made
  status                        show what runs
  load IMAGE.tar...             import image archives into every node
  kubeconfig                    print the path of the kubeconfig
  env                           print shell lines that set KUBECONFIG and PATH
  kubectl ARG...                run the cluster's kubectl
  exec NODE [--] CMD ARG...     run a command inside node-1, node-2, … or control-plane
  stop UNIT                     kill a component of the control plane, until start
  start UNIT                    let it run again, and wait for the API server
  image --name NAME --binary PATH [--entrypoint ARG]... [--user UID] -o OUT.tar
                                build an image of one static binary
  build                         build the cluster's own programs, and nothing more

Its state is in $` + dirVariable + ` (default ` + defaultDir + `).
`

// streams are the standard streams of a verb: results go to Out, progress and
// everything else a person reads to Err.
type streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// verb is one subcommand; args are those after its name.
type verb func(ctx context.Context, cluster *Cluster, io streams, args []string) error

func verbs() map[string]verb {
	return map[string]verb{
		"up":         up,
		"nodes":      resize,
		"down":       down,
		"status":     status,
		"load":       load,
		"kubeconfig": kubeconfig,
		"env":        environment,
		"kubectl":    kubectl,
		"exec":       execute,
		"image":      image,
		"build":      build,
		"stop":       stop,
		"start":      start,

		// Roles of the background processes, started by up.
		roleSupervisor:   supervise,
		roleControlPlane: runControlPlane,
		roleNode:         runNode,
	}
}

func main() {
	if filepath.Base(os.Args[0]) == ociRuntimeName {
		os.Exit(report(os.Stderr, ociRuntime(os.Args[1:])))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

func run(ctx context.Context, args []string, io streams) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(io.Err, usage)
		if len(args) == 0 {
			return 2
		}
		return 0
	}
	do, ok := verbs()[args[0]]
	if !ok {
		fmt.Fprint(io.Err, usage)
		return report(io.Err, fmt.Errorf("unknown verb %q", args[0]))
	}
	cluster, err := openCluster(os.Getenv(dirVariable))
	if err != nil {
		return report(io.Err, err)
	}
	return report(io.Err, do(ctx, cluster, io, args[1:]))
}

// hinted is an error with advice for the reader.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func withHint(err error, hint string) error { return hinted{err, hint} }

// report prints err and its hints, and returns the exit status: that of a
// command which was run on the user's behalf, otherwise 1.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	if exit := new(exitStatus); errors.As(err, exit) {
		return int(*exit)
	}
	fmt.Fprintf(w, "error: %v\n", err)
	if h := (hinted{}); errors.As(err, &h) {
		fmt.Fprintf(w, "hint: %s\n", h.hint)
	}
	return 1
}

// exitStatus is the status of a command whose own words suffice.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// passThrough runs cmd with our streams and turns a failure into its status.
func passThrough(cmd *exec.Cmd, io streams) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = io.In, io.Out, io.Err
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitStatus(exit.ExitCode())
	}
	return err
}
