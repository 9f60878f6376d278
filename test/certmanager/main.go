//go:build linux

// Command certmanager runs two of cert-manager's controllers, the one that looks after ClusterIssuers and the one that
// signs CertificateSigningRequests for CA issuers: its own code, for the end-to-end tests. "make cert-manager" builds it.
// cert-manager's own command is a module that no proxy serves, with all issuers, and takes many times as long to compile.
// Its webhook is left out, which checks objects before they are stored, and the signing of CertificateSigningRequests
// does not ask it. The feature gate ExperimentalCertificateSigningRequestControllers, too: the command looks at it to
// choose controllers.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/certificatesigningrequests/ca"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	options := controller.ContextOptions{}
	flag.StringVar(&options.Kubeconfig, "kubeconfig", os.Getenv(clientcmd.RecommendedConfigPathEnvVar), "`path` of the kubeconfig")
	flag.StringVar(&options.ClusterResourceNamespace, "cluster-resource-namespace", "cert-manager", "`namespace` with the Secrets of ClusterIssuers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run runs the controllers until ctx ends.
func run(ctx context.Context, options controller.ContextOptions) error {
	running, ctx := errgroup.WithContext(ctx)
	factory, err := controller.NewContextFactory(ctx, options)
	if err != nil {
		return err
	}
	shared, err := factory.Build()
	if err != nil {
		return err
	}
	for _, name := range []string{clusterissuers.ControllerName, ca.CSRControllerName} {
		c, err := controller.Known()[name](factory)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
		running.Go(func() error { return c.Run(1, ctx) })
	}
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	return running.Wait()
}
