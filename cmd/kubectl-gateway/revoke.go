package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// revokeOptions are the flags of revoke.
type revokeOptions struct {
	authorityFlags
	output       string
	parallel     int
	timeout      time.Duration
	certTTL      time.Duration
	list, dryRun bool
}

func newRevokeCommand(a *app) *cobra.Command {
	var o revokeOptions
	cmd := &cobra.Command{
		Use:   "revoke ((TARGET | SERIAL | IDENTITY)... | --list)",
		Short: "Take back certificates before they expire",
		Long: `Has the authority sign a list of revoked certificates, publishes that beside the trust
bundle, and gives it to the gateways of all namespaces. They refuse such a peer from
then on, and reset the connections with it that are open.

  TARGET     all that were issued until now for pods, like pod/web-0 or deploy/web;
             no gateway is asked, as it may be in other hands
  SERIAL     one certificate, by its serial number in hexadecimal
  IDENTITY   all that were issued until now for a service account,
             like ns/shop/sa/web

New certificates are good: 'rotate' gives them to the pods that are to go on.

A failed pod does not stop the others, and makes the exit code 1. It gets the list from
'watch' within 12 minutes, or when the command is run again. There are 1024
entries at most, which end with the authority unless --cert-ttl says otherwise.`,
		Example: `  # The key of a pod's certificate may have been stolen
  kubectl gateway revoke pod/web-0

  # All keys of a service account; then give its pods new ones
  kubectl gateway revoke ns/shop/sa/web
  kubectl gateway rotate -n shop -l app=web

  # Print what would be revoked, and what is
  kubectl gateway revoke pod/web-0 --dry-run
  kubectl gateway revoke --list`,
		ValidArgsFunction: a.completeTargets(enabled),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.list {
				if len(args) > 0 || o.dryRun {
					return errors.New("--list only prints what is revoked: use it alone")
				}
				return o.printList(cmd.Context(), a)
			}
			if len(args) == 0 {
				return api.WithHint(errors.New("nothing is named that is to be revoked"), "name a pod, a serial number or an identity; --list prints what is revoked")
			}
			return o.run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	addOutput(f, &o.output, "", "name", "json", "yaml", "kyaml")
	addParallel(f, &o.parallel)
	addTimeout(f, &o.timeout, rotate.DefaultTimeout, "how long one pod may take")
	o.authorityFlags.add(a, f, "authority-dir")
	flags.Parsed(f, &o.certTTL, "cert-ttl", "string", "", "the longest --cert-ttl that the certificates were given, after which entries end (default: when the authority ends)", parseLifetime)
	f.BoolVar(&o.dryRun, "dry-run", false, "change nothing, and print what would be revoked")
	f.BoolVar(&o.list, "list", false, "print what is revoked")
	return cmd
}

// entries returns what args name. Nothing is changed.
func (o *revokeOptions) entries(ctx context.Context, a *app, signer *ca.Authority, args []string) ([]ca.Revocation, error) {
	now, until := time.Now(), signer.NotAfter()
	if end := now.Add(o.certTTL); o.certTTL > 0 && end.Before(until) {
		until = end
	}
	var entries []ca.Revocation
	for _, arg := range args {
		full := arg
		if strings.HasPrefix(arg, "ns/") {
			full = "spiffe://" + signer.TrustDomain() + "/" + arg
		}
		switch {
		case strings.HasPrefix(full, "spiffe://"):
			id, err := identity.Parse(full)
			if err == nil && id.TrustDomain != signer.TrustDomain() {
				err = fmt.Errorf("%s is not of trust domain %q", id, signer.TrustDomain())
			}
			if err != nil {
				return nil, api.WithHint(err, "an identity is that of a service account, like ns/shop/sa/web")
			}
			entries = append(entries, ca.Revocation{Identity: id.String(), At: now, Until: until})
		case strings.Contains(arg, "/"):
			found, err := a.find(ctx, &targets.Flags{}, []string{arg})
			if err != nil {
				return nil, err
			}
			for i := range found.Pods {
				pod := &found.Pods[i]
				// Not what its gateway says: that may be in other hands.
				entries = append(entries, ca.Revocation{
					Identity: installed.Identity(pod, signer.TrustDomain()).String(), Pod: string(pod.UID), At: now, Until: until})
			}
		default:
			serial := strings.TrimLeft(strings.ToLower(strings.ReplaceAll(arg, ":", "")), "0")
			if ca.CheckSerial(serial) != nil {
				return nil, api.WithHint(fmt.Errorf("%q is no serial number", arg),
					"a pod is named like pod/web-0, an identity like ns/shop/sa/web; 'kubectl gateway status -o json' has serial numbers")
			}
			entries = append(entries, ca.Revocation{Serial: serial, At: now, Until: until})
		}
	}
	return entries, nil
}

func (o *revokeOptions) run(ctx context.Context, a *app, args []string) error {
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	gateways := remote.NewClient(config, client)
	j := &job{newReport(a, o.output), client, gateways}
	location := o.open(ctx, j.authority(o.authorityDir))
	signer, err := authority.Load(ctx, location)
	if err != nil {
		return fmt.Errorf("loading the authority: %w", err)
	}
	entries, err := o.entries(ctx, a, signer, args)
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.print(a, entries, " (dry run)")
	}
	location.Remark = nil // said already
	if signer, err = authority.Revoke(ctx, location, entries); err != nil {
		return err
	}
	found, err := a.find(ctx, &targets.Flags{All: true, AllNamespaces: true}, nil)
	if err != nil && !errors.Is(err, targets.ErrNoMatch) {
		return fmt.Errorf("what is revoked is published, and no gateway was told: %w", err)
	}
	// Who has no gateway any more needs no word. That of a pod which is being deleted serves until the end.
	found.Pods = slices.DeleteFunc(found.Pods, func(pod corev1.Pod) bool {
		gateway, ok := installed.Current(&pod)
		return !ok || gateway.Phase == installed.Terminated || installed.Finished(&pod)
	})
	if o.output == "" {
		for i := range entries {
			fmt.Fprintln(a.ErrOut, line(entries[i].String()+" revoked"))
		}
	}
	err = o.verb(signer, entries).on(ctx, a, client, gateways, found, nil)
	if slices.ContainsFunc(entries, func(e ca.Revocation) bool { return e.Identity != "" }) {
		// What is issued within this very second is revoked, too, and 'rotate' may be next.
		_ = resend.Pause(ctx, time.Until(entries[0].At.Truncate(time.Second).Add(time.Second)))
	}
	return err
}

// verb tells gateways what signer has revoked.
func (o *revokeOptions) verb(signer *ca.Authority, entries []ca.Revocation) *podVerb[change.Result, revokeItem] {
	revoked := signer.Revocations()
	return &podVerb[change.Result, revokeItem]{
		podFlags: &podFlags{output: o.output, parallel: o.parallel}, ending: true,
		begin: func(_ context.Context, j *job) (worker[change.Result], error) {
			return func(ctx context.Context, pod *corev1.Pod) change.Result {
				result := change.Result{Pod: pod}
				result.Container, result.Err = j.gateways.Ask(ctx, pod, o.timeout, "it may know what is revoked", func(ctx context.Context, g *remote.Conn) (err error) {
					if result.Status, err = g.Trust(ctx, signer.Bundle(), revoked); err != nil {
						return err
					}
					if !revoked.Reached(result.Status.Cert.Revocations) {
						return api.WithHint(errors.New("the gateway is too old to know revocation"), "'kubectl gateway upgrade' replaces it")
					}
					return nil
				})
				return result
			}, nil
		},
		tell: func(result change.Result) outcome {
			told := outcome{pod: result.Pod, done: "refuses what is revoked", err: result.Err, event: announce.Changed, mode: modeIn(result.Status)}
			if result.Err == nil && result.Status.Cert.Revoked {
				told.warnings = []string{"the gateway's own certificate is revoked: 'kubectl gateway rotate' gives it a new one"}
			}
			return told
		},
		item: newRevokeItem,
		document: func(results []change.Result) (string, error) {
			return encode(revocationsOutput{entries, lists.Map(results, newRevokeItem)}, o.output)
		},
		closing: func(_ *targets.Selection, results []change.Result) []string {
			if !slices.ContainsFunc(results, func(r change.Result) bool { return r.Err != nil }) {
				return nil
			}
			return []string{"the others get the list from 'kubectl gateway watch' within 12 minutes, or when this is run again"}
		},
	}
}

// revokeItem is the machine-readable result of one pod.
type revokeItem struct {
	podItem
	Container string `json:"container,omitempty"`
	// Revoked says that the certificate of the pod's own gateway is.
	Revoked bool `json:"revoked,omitempty"`
	itemEnd
}

func newRevokeItem(result change.Result) revokeItem {
	item := revokeItem{podItem: podItemOf(result.Pod), Container: result.Container, itemEnd: itemEndOf(nil, result.Err)}
	item.Revoked = result.Err == nil && result.Status.Cert.Revoked
	return item
}

// revocationsOutput is what is revoked, and what became of the pods that had to be told.
type revocationsOutput struct {
	Revoked []ca.Revocation `json:"revoked"`
	Items   []revokeItem    `json:"items,omitempty"`
}

func (o *revokeOptions) printList(ctx context.Context, a *app) error {
	_, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	revoked, err := authority.Revoked(ctx, client)
	if err != nil {
		return err
	}
	return o.print(a, revoked.Entries(time.Now()), "")
}

// print prints entries. Each line of text ends with after.
func (o *revokeOptions) print(a *app, entries []ca.Revocation, after string) error {
	switch o.output {
	case "", "name":
	default:
		return a.printAs("revocations", revocationsOutput{Revoked: append([]ca.Revocation{}, entries...)}, o.output)
	}
	var text strings.Builder
	for i := range entries {
		e := &entries[i]
		fmt.Fprint(&text, e.String())
		if o.output == "" {
			fmt.Fprintf(&text, " revoked on %s, until %s%s", e.At.UTC().Format(time.RFC3339), e.Until.UTC().Format(time.RFC3339), after)
		}
		fmt.Fprintln(&text)
	}
	return a.print("revocations", text.String())
}
