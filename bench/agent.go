//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// helpers are what this program can be besides the benchmark itself.
func helpers() netlab.Helpers {
	return netlab.Helpers{"server": serverMain, "client": clientMain, "relay": relayMain, "wait": waitMain}
}

// argHelper is the argument before the name of a helper, where no variable says it.
const argHelper = "helper"

// waitMain keeps a container until that is ended.
func waitMain([]string) int {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
	return 0
}

// An order is what the benchmark asks of one of its processes, one JSON value on
// standard input; the process answers with an outcome on standard output. A
// process ends with its standard input, so none survives the benchmark.
type order struct {
	Op     string
	Target string `json:",omitempty"`
	// Workers do the same at the same time, one if 0.
	Workers int `json:",omitempty"`
	// Size is that of a request and of its response in bytes, messageSize if 0.
	Size     int           `json:",omitempty"`
	Duration time.Duration `json:",omitempty"`
}

const (
	opUpload   = "upload"
	opDownload = "download"
	opPing     = "ping"
	opBeside   = "beside" // ping on one connection while the others upload
	opConnect  = "connect"
	opHold     = "hold"    // open connections, exchange a message, keep them
	opRelease  = "release" // close them
	opTotals   = "totals"  // of a server: everything since it started
)

type outcome struct {
	Error string `json:",omitempty"`
	// Connections were made, Open of them are still open.
	Connections, Open int
	// Sent and Received are all bytes, Payload those without messages around.
	Sent, Received, Payload uint64
	Operations              int           `json:",omitempty"`
	Elapsed                 time.Duration `json:",omitempty"`
	// Median and P99 are of an operation, or from connect(2) to the first byte of the answer.
	Median, P99 time.Duration `json:",omitempty"`
}

// serveOrders is the life of a process: it ends with its orders, even amid one.
func serveOrders(handle func(order) (outcome, error)) int {
	orders, ended := make(chan order), make(chan error, 2)
	go func() {
		in := json.NewDecoder(os.Stdin)
		for {
			var o order
			if err := in.Decode(&o); err != nil {
				ended <- err
				return
			}
			orders <- o
		}
	}()
	go func() {
		out := json.NewEncoder(os.Stdout)
		for o := range orders {
			result, err := handle(o)
			if err != nil {
				result.Error = err.Error()
			}
			if err := out.Encode(result); err != nil {
				ended <- err
				return
			}
		}
	}()
	if err := <-ended; err != io.EOF {
		fmt.Fprintln(os.Stderr, "waiting for orders:", err)
		return 1
	}
	return 0
}

// agent is the benchmark's end of one of its processes.
type agent struct {
	process
	in, out *os.File
	encoder *json.Encoder
	decoder *json.Decoder
}

// process is what an agent talks to.
type process interface {
	Output() string
	Stop()
}

// startAgent starts a helper in a cgroup of a node.
func startAgent(n *netlab.Node, cgroup, helper string, args ...string) (*agent, error) {
	return newAgent(func(in, out *os.File) (process, error) {
		return n.TryStart(netlab.Command{Cgroup: cgroup, Helper: helper, Args: args, Stdin: in, Stdout: out})
	})
}

// newAgent has start start a process with these ends of pipes as its standard input and output.
func newAgent(start func(in, out *os.File) (process, error)) (a *agent, err error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer childIn.Close()
	out, childOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer childOut.Close()
	a = &agent{in: in, out: out, encoder: json.NewEncoder(in), decoder: json.NewDecoder(out)}
	if a.process, err = start(childIn, childOut); err != nil {
		a.closePipes()
		return nil, err
	}
	return a, nil
}

func (a *agent) closePipes() {
	a.in.Close()
	a.out.Close()
}

// close ends the process.
func (a *agent) close() {
	a.closePipes()
	a.Stop()
}

// ask has an order carried out. After an error, that of ctx included, the agent
// is of no use.
func (a *agent) ask(ctx context.Context, o order) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Duration+2*slack)
	defer cancel()
	stop := context.AfterFunc(ctx, a.closePipes)
	defer stop()
	var result outcome
	err := a.encoder.Encode(o)
	if err == nil {
		err = a.decoder.Decode(&result)
	}
	switch {
	case ctx.Err() != nil:
		return result, fmt.Errorf("%s: %w", o.Op, ctx.Err())
	case err != nil:
		return result, fmt.Errorf("%s: the process is gone: %w\n%s", o.Op, err, strings.TrimSpace(a.Output()))
	case result.Error != "":
		return result, fmt.Errorf("%s: %w", o.Op, errors.New(result.Error))
	}
	return result, nil
}
