//go:build linux

package proxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log"
	"net"
	"os"
	"os/signal"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/proxy"
)

// A proxy carries the connections of a pod until its context is done. The listeners, the
// certificate and the eBPF programs come from its caller.
func Example() {
	var (
		config        *api.Config
		certificate   tls.Certificate
		roots         *x509.CertPool
		capture, peer net.Listener
		sockets       proxy.Sockets
	)
	logger := proxy.NewLogger(os.Stdout, new(journal.Budget), journal.NewSpool(nil))
	defer logger.Close(context.Background())
	p, err := proxy.New(proxy.Options{
		Config: config, Certificate: certificate, Roots: roots,
		Capture: []net.Listener{capture}, Peer: peer,
		Sockets: sockets, Log: logger,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := p.Serve(ctx); err != nil {
		log.Fatal(err)
	}
}
