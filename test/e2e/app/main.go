// Command app is the application of the end-to-end tests. "app serve" listens
// on the ports below; the other commands are clients that the tests run in the
// same container, and that print one JSON object each. It knows nothing of
// gateways.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/test/fidelity"
)

// Ports of "app serve".
const (
	portEcho        = 9000 // returns what it reads, and half-closes after it
	portServerFirst = 9001 // speaks first: one line with the addresses it sees
	portCount       = 9002 // reads to the end of file, then answers with a hash
	portTraffic     = 9003 // numbered messages in both directions, which both ends check
	portPostgres    = 9004 // answers every query of a PostgreSQL client
	portHTTP        = 9080
	portGRPC        = 9090 // answers the gRPC health checking protocol
)

// timeout ends every client that hangs.
const timeout = 5 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: app serve|agent|hook|traffic|served|talk|lookup|first|halfclose|concurrent|download|upload ...")
		os.Exit(2)
	}
	if os.Args[1] == "sleep" { // for pods whose ports are not their own
		<-ctx.Done()
		return
	}
	if os.Args[1] == "listen" { // takes a port, and returns what it reads there
		listener, err := net.Listen("tcp", os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() { _ = echo(conn.(*net.TCPConn)) }()
			}
		}()
		fmt.Println("listening")
		<-ctx.Done()
		return
	}
	if run := map[string]func(context.Context, []string) error{
		"serve": serveCommand, "traffic": trafficCommand, "hook": hookCommand,
		"agent": func(context.Context, []string) error { return fidelity.Agent(os.Stdin, os.Stdout) },
		"served": func(ctx context.Context, _ []string) error {
			return printAnswer(ctx, http.MethodGet, "http://127.0.0.1:9080/served", nil)
		},
		"exit": func(ctx context.Context, _ []string) error {
			return printAnswer(ctx, http.MethodPost, "http://127.0.0.1:9080/exit", nil)
		},
	}[os.Args[1]]; run != nil {
		if err := run(ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result, err := client(ctx, os.Args[1], os.Args[2:])
	if err != nil {
		result.Error = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(result)
}
