package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
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

	// The fields below are for --ca alone.
	authority bool
	source    sourceFlags
	dryRun    bool
}

func newRotateCommand(a *app) *cobra.Command {
	var o rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate (TARGET... | -f FILE | -l SELECTOR | --all | --ca)",
		Short: "Renew the certificates of running gateways, or the authority",
		Long: `Renews the certificates of running gateways. Each gateway makes a new key, which
never leaves it, and gets a certificate for it. Open connections go on; new ones use
the new certificate. An expired certificate can be renewed as well. Targets are those
of 'enable'. A failed pod does not stop the others, and makes the exit code 1; its
gateway goes on as before.

--ca replaces the authority instead, while all traffic goes on:

  1/4 trust     all gateways trust the roots of both authorities
  2/4 switch    the new authority signs
  3/4 reissue   all gateways get certificates of the new authority
  4/4 drop      all gateways drop the old root

It works on the gateways of all namespaces, and stops before a step that would cut a
connection: a running gateway that does not answer keeps the old root in use. Run
again, it continues where it stopped. The old authority is kept as a backup. Other
operators then need a copy of the new one.`,
		Example: `  # One pod, or all of a namespace
  kubectl gateway rotate pod/web-0
  kubectl gateway rotate --all -n shop

  # Print the next step of replacing the authority; then do it
  kubectl gateway rotate --ca --dry-run
  kubectl gateway rotate --ca

  # Replace it with your own
  kubectl gateway rotate --ca --from-cert ca.crt --from-key ca.key`,
		ValidArgsFunction: a.completeTargets(enabled),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			if o.authority {
				successor, err := o.source.read(cmd.Flags())
				if err != nil {
					return err
				}
				return o.rotateAuthority(cmd.Context(), a, successor, o.certTTL)
			}
			return o.rotateLeaves(cmd.Context(), a, args, o.certTTL)
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
	o.source.add(cmd, "with --ca: ", "the new authority")
	f.BoolVar(&o.dryRun, "dry-run", false, "with --ca: change nothing, and print the next step")
	return cmd
}

// check finds contradictions without asking the cluster.
func (o *rotateOptions) check(args []string) error {
	switch {
	case o.authority && (!o.targets.Empty(args) || o.targets.AllNamespaces):
		return errors.New("pods are selected, but --ca is about all gateways of the cluster: use one of them")
	case !o.authority && (o.dryRun || o.source.certFile != ""):
		return errors.New("--dry-run, --from-cert and --from-key need --ca")
	case !o.authority && o.targets.Empty(args):
		return api.WithHint(targets.ErrNothingNamed, "name a pod, or use -l or --all; --ca replaces the authority")
	}
	return nil
}

// rotateLeaves renews the certificates of the pods that flags and args select.
func (o *rotateOptions) rotateLeaves(ctx context.Context, a *app, args []string, ttl time.Duration) error {
	if err := o.confirm.check(a, &o.targets); err != nil {
		return err
	}
	found, missing := a.find(ctx, &o.targets, args)
	if len(found.Pods) == 0 {
		return missing
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	report := &rotateReport{report: newReport(a, o.output)}
	report.namespaces = several(found.Pods)
	pods := sift(found, func(pods []corev1.Pod) []corev1.Pod { return report.skipWithoutGateway(report.skipLeaving(pods)) })
	if len(pods) == 0 && missing == nil {
		return api.WithHint(errors.New("none of the selected pods has a gateway"), "'kubectl gateway enable pod/NAME' adds one")
	}
	signer, err := authority.Load(ctx, authority.Location{Client: client, Dir: o.authorityDir})
	if err != nil {
		return fmt.Errorf("loading the authority: %w", err)
	}
	if err := o.confirm.ask(ctx, a, &o.targets, "renew the certificates of", pods); err != nil {
		return err
	}
	report.missing(missing)
	rotator := rotate.Rotator{Gateways: remote.NewClient(config, client), Authority: signer, TTL: ttl, Parallel: o.parallel, Timeout: o.timeout}
	err = finish(&report.report, rotator.RotateAll(ctx, pods, report.add), newRotateItem)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// rotateReport tells the user which certificates were renewed.
type rotateReport struct{ report }

// add reports the result of one pod.
func (r *rotateReport) add(result rotate.Result) {
	r.total++
	if result.Err != nil {
		r.failPod(result.Pod, result.Err)
		return
	}
	r.done(result.Pod, "certificate renewed, valid until "+result.Status.Cert.NotAfter.UTC().Format(time.RFC3339))
	r.warn(r.name(result.Pod)+": ", result.Warnings)
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
