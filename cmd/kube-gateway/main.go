//go:build linux

// Command kube-gateway is the gateway: the program that runs inside a pod. It
// is the only file of its image.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/supervisor"
	"github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

const usage = `kube-gateway encrypts the TCP traffic of the pod it runs in.

Usage:
  kube-gateway supervise             run the gateway (what 'kubectl gateway enable' starts)
  kube-gateway clean                 remove what a gateway that died left in the pod
  kube-gateway ctl status            print the status of the gateway in this container
  kube-gateway ctl started           succeed once the containers behind a sidecar may start
  kube-gateway ctl edges             print who the pod talks to, and how
  kube-gateway ctl metrics           print its metrics for Prometheus
  kube-gateway ctl mode MODE         change its mode to strict or permissive
  kube-gateway ctl allow PATTERN...  let only these peers connect, like 'ns/prod/sa/*'
  kube-gateway ctl allow --everyone  let everyone in the trust domain connect
  kube-gateway ctl log LEVEL         log connections, refused ones only, or none
  kube-gateway ctl renew             print a certificate request, read the certificate for it
  kube-gateway ctl trust             read a trust bundle and trust its roots from now on
  kube-gateway ctl reset             reset the application's connections that no gateway carries
  kube-gateway ctl disable           stop the capture, let connections end, end the gateway
  kube-gateway ctl hand-over         wait for another gateway of the pod, and print how it finds this one
  kube-gateway ctl take-over         read that, and take over from the other gateway
  kube-gateway packets               write the pod's packets to the standard output as pcapng
  kube-gateway probe listen IP       send back what connections to the pod bring
  kube-gateway probe connect ADDR    send a line of the input as an application of the pod
  kube-gateway version               print the version
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command and returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var err error
	verb, rest := "help", args
	if len(args) > 0 {
		verb, rest = args[0], args[1:]
	}
	if verb != "supervise" {
		// Whoever can read the environment may take the gateway's place as well: the command goes on.
		_ = forgetKey()
	}
	switch verb {
	case "supervise":
		err = supervise(context.Background(), rest)
	case "worker":
		err = runWorker(context.Background(), rest)
	case "loader":
		err = runLoader(rest)
	case "exporter":
		err = runExporter(context.Background(), rest)
	case "clean":
		err = clean(context.Background(), rest, stdout)
	case "packets":
		err = recordPackets(context.Background(), rest, stdin, stdout)
	case "probe":
		err = runProbe(context.Background(), rest, stdin, stdout, stderr)
	case "ctl":
		err = ctl(context.Background(), rest, stdin, stdout)
	case "version", "--version":
		fmt.Fprintln(stdout, "kube-gateway", version.String())
		if module := version.FIPS140(); module != "" {
			fmt.Fprintln(stdout, "FIPS 140-3 module", module)
		}
	case "help", "--help", "-h":
		fmt.Fprint(stdout, usage)
	default:
		err = api.WithHint(fmt.Errorf("unknown command %q", verb), "see 'kube-gateway help'")
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "error: %v\n", err)
	if hint := api.Hint(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	if errors.Is(err, supervisor.ErrUnserved) {
		return api.ExitUnserved
	}
	return 1
}
