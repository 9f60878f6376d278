package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// rotateOptions are the flags of rotate.
type rotateOptions struct {
	targets      targets.Flags
	confirm      confirmation
	certTTL      time.Duration
	authorityDir string
	timeout      time.Duration
	parallel     int
	output       string

	// Those below are of the authority's rotation only.
	authority bool
	fromCert  string
	fromKey   string
	ttl       time.Duration
	dryRun    bool
}

func newRotateCommand(a *app) *cobra.Command {
	var o rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate (TARGET... | -f FILE | -l SELECTOR | --all | --ca)",
		Short: "Renew the certificates of running gateways, or the authority",
		Long: `Renews the certificates of running gateways. Each makes a new key, which stays in
the gateway, and gets a certificate for it. Connections that are open go on; those
that start from then on use the new certificate. One that has expired can be
renewed, too. Targets are those of 'enable'. One pod's failure does not stop the
others; the exit code is 1 then, and a gateway that failed goes on as before.

With --ca it replaces the authority instead, while all traffic goes on:

  1/4 trust     the roots of both authorities are given to all gateways
  2/4 switch    the new authority signs
  3/4 reissue   all gateways get certificates of the new one
  4/4 drop      the old root is taken away from all gateways

It looks at the gateways of all namespaces, and stops before anything that would
cut a connection: a gateway that runs and does not answer keeps the old root in
use. Interrupted or stopped, it goes on where it was when it is run again. The old
authority is kept as a backup. Other operators need a copy of the new one then.`,
		Example: `  # One pod, or all of a namespace
  kubectl gateway rotate pod/web-0
  kubectl gateway rotate --all -n shop

  # What replacing the authority would do next; then do it
  kubectl gateway rotate --ca --dry-run
  kubectl gateway rotate --ca

  # Replace it by one of one's own
  kubectl gateway rotate --ca --from-cert ca.crt --from-key ca.key`,
		ValidArgsFunction: a.completeTargets(enabled),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			if o.authority {
				successor, err := o.successor(cmd.Flags().Changed("ttl"))
				if err != nil {
					return err
				}
				return o.rotateAuthority(cmd.Context(), a, successor, o.certTTL)
			}
			return o.leaves(o.certTTL).run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	o.targets.AddFlags(f)
	o.targets.AddAllNamespacesFlag(f)
	o.confirm.addFlag(f)
	addCertTTL(f, &o.certTTL)
	addAuthorityDir(f, &o.authorityDir, "authority-dir")
	addTimeout(f, &o.timeout, rotate.DefaultTimeout, "how long one pod may take")
	addParallel(f, &o.parallel)
	addResults(f, &o.output)
	f.BoolVar(&o.authority, "ca", false, "replace the authority, and the certificates of all gateways in the cluster")
	f.StringVar(&o.fromCert, "from-cert", "", "with --ca: PEM file with the certificate of the authority to follow, followed by its chain up to the root")
	f.StringVar(&o.fromKey, "from-key", "", "with --ca: PEM file with the private key of --from-cert")
	addAuthorityTTL(f, &o.ttl, "with --ca: how long a new authority is valid, like 720h, 90d or 10y")
	f.BoolVar(&o.dryRun, "dry-run", false, "with --ca: change nothing, and say what would be done next")
	flags.Files(f, "from-cert", "from-key")
	cmd.MarkFlagsRequiredTogether("from-cert", "from-key")
	return cmd
}

// check finds what makes no sense without asking the cluster.
func (o *rotateOptions) check(args []string) error {
	switch {
	case o.authority && (!o.targets.Empty(args) || o.targets.AllNamespaces):
		return errors.New("pods are selected, but --ca is about all gateways of the cluster: use one of them")
	case !o.authority && (o.dryRun || o.fromCert != ""):
		return errors.New("--dry-run, --from-cert and --from-key need --ca")
	case !o.authority && o.targets.Empty(args):
		return api.WithHint(targets.ErrNothingNamed, "name a pod, or use -l or --all; --ca replaces the authority")
	}
	return nil
}

// leaves renews the certificates of pods.
func (o *rotateOptions) leaves(ttl time.Duration) *podVerb[rotate.Result, rotateItem] {
	return &podVerb[rotate.Result, rotateItem]{
		targets: &o.targets, confirm: &o.confirm, output: o.output, parallel: o.parallel, question: "renew the certificates of", gateways: true,
		begin: func(ctx context.Context, config *rest.Config, client kubernetes.Interface) (work[rotate.Result], error) {
			signer, err := authority.Load(ctx, authority.Location{Client: client, Dir: o.authorityDir})
			if err != nil {
				return nil, fmt.Errorf("loading the authority: %w", err)
			}
			rotator := rotate.Rotator{Gateways: remote.NewClient(config, client), Authority: signer, TTL: ttl, Timeout: o.timeout}
			return func(ctx context.Context, _ *report, _ []corev1.Pod) (func(*corev1.Pod) rotate.Result, error) {
				return func(pod *corev1.Pod) rotate.Result { return rotator.Rotate(ctx, pod) }, nil
			}, nil
		},
		tell: func(result rotate.Result) outcome {
			told := outcome{pod: result.Pod, warnings: result.Warnings, err: result.Err}
			if result.Err == nil {
				told.done = "certificate renewed, valid until " + result.Status.Cert.NotAfter.UTC().Format(time.RFC3339)
			}
			return told
		},
		item: newRotateItem,
	}
}

// rotateItem is the machine-readable result of one pod.
type rotateItem struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container,omitempty"`
	// OldSerial and Serial are in lower-case hexadecimal.
	OldSerial string     `json:"oldSerial,omitempty"`
	Serial    string     `json:"serial,omitempty"`
	NotAfter  *time.Time `json:"notAfter,omitempty"`
	// Issuer is the SHA-256 fingerprint of the root that the certificate leads to.
	Issuer   string   `json:"issuer,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Error    string   `json:"error,omitempty"`
	Hint     string   `json:"hint,omitempty"`
}

func newRotateItem(result rotate.Result) rotateItem {
	item := rotateItem{Namespace: result.Pod.Namespace, Pod: result.Pod.Name, Container: result.Container,
		OldSerial: terminal.Clean(result.OldSerial), Warnings: result.Warnings}
	if result.Err != nil {
		item.Error, item.Hint = told(result.Err)
		return item
	}
	cert := result.Status.Cert
	item.Serial, item.NotAfter, item.Issuer = cert.Serial, &cert.NotAfter, cert.Issuer
	return item
}
