package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// rotateOptions are the flags of rotate.
type rotateOptions struct {
	podFlags
	authorityFlags
	certTTL time.Duration
	timeout time.Duration

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
again, it continues where it stopped. The old authority is kept as a backup, and its
root is retired: nobody here trusts it again. Other operators then need a copy of the
new one.

Where a signer of the cluster issues the certificates (init-ca --signer), --ca brings all
gateways the roots that the signer is trusted by now: new ones first, then certificates
that lead to them, and old roots end last. 'watch' does the same by itself.`,
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
				return o.rotateAuthority(cmd.Context(), a, successor)
			}
			return o.leaves().run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	o.podFlags.addFlags(f)
	addCertTTL(f, &o.certTTL, days(ca.DefaultLeafTTL))
	o.authorityFlags.add(a, f, "authority-dir")
	addTimeout(f, &o.timeout, rotate.DefaultTimeout, "how long one pod may take")
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
	case !o.authority && (o.dryRun || o.source.given()):
		return errors.New("--dry-run, --from-cert, --from-key, --key-command and --encrypt need --ca")
	case !o.authority && o.targets.Empty(args):
		return api.WithHint(targets.ErrNothingNamed, "name a pod, or use -l or --all; --ca replaces the authority")
	}
	return nil
}

// rotated is the result of one pod: the certificate, and what was carried along.
type rotated struct {
	rotate.Result
	covered *change.Covered
}

// leaves renews the certificates of pods.
func (o *rotateOptions) leaves() *podVerb[rotated, rotateItem] {
	changer := change.Changer{Timeout: o.timeout}
	v := &podVerb[rotated, rotateItem]{}
	*v = podVerb[rotated, rotateItem]{
		podFlags: &o.podFlags, question: "renew the certificates of", gateways: true,
		begin: func(ctx context.Context, j *job) (worker[rotated], error) {
			issuer, err := authority.Open(ctx, o.open(ctx, j.authority(o.authorityDir)))
			if err != nil {
				return nil, fmt.Errorf("loading the authority: %w", err)
			}
			changer.Gateways = j.gateways
			rotator := &rotate.Rotator{Gateways: changer.Gateways, Authority: issuer, TTL: o.certTTL, Timeout: o.timeout}
			v.uses = rights.Issuing(issuer)
			return func(ctx context.Context, pod *corev1.Pod) rotated {
				result := rotator.Rotate(ctx, pod)
				if result.Err != nil {
					return rotated{Result: result}
				}
				carried := change.Result{Pod: pod, Container: result.Container, Status: result.Status}
				changer.Along(ctx, &carried)
				result.Warnings = append(result.Warnings, carried.Warnings...)
				return rotated{result, carried.Covered}
			}, nil
		},
		survey: func(ctx context.Context, j *job, pods []corev1.Pod) error { return carry(ctx, j, pods, &changer) },
		tell: func(result rotated) outcome {
			told := renewed(result.Pod, result.Status)
			told.notes, told.warnings, told.err = carried(result.covered), result.Warnings, result.Err
			return told
		},
		item:   newRotateItem,
		refuse: func(pod *corev1.Pod, err error) rotated { return rotated{Result: rotate.Result{Pod: pod, Err: err}} },
	}
	return v
}

// renewed says that the gateway of pod has the certificate in status, which is nil if it has failed.
func renewed(pod *corev1.Pod, status *api.Status) outcome {
	told := outcome{pod: pod, event: announce.Renewed, mode: modeIn(status)}
	if status != nil {
		told.done = "certificate renewed, valid until " + status.Cert.NotAfter.UTC().Format(time.RFC3339)
	}
	return told
}

// rotateItem is the machine-readable result of one pod.
type rotateItem struct {
	podItem
	Container string `json:"container,omitempty"`
	// OldSerial and Serial are in lower-case hexadecimal.
	OldSerial string     `json:"oldSerial,omitempty"`
	Serial    string     `json:"serial,omitempty"`
	NotAfter  *time.Time `json:"notAfter,omitempty"`
	// Issuer is the SHA-256 fingerprint of the root that the certificate leads to.
	Issuer string `json:"issuer,omitempty"`
	itemEnd
}

func newRotateItem(result rotated) rotateItem {
	item := rotateItem{podItem: podItemOf(result.Pod), Container: result.Container,
		OldSerial: terminal.Clean(result.OldSerial), itemEnd: itemEndOf(result.Warnings, result.Err)}
	if result.Err == nil {
		cert := result.Status.Cert
		item.Serial, item.NotAfter, item.Issuer = cert.Serial, &cert.NotAfter, cert.Issuer
	}
	return item
}
