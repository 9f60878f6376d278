package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
)

// rotateAuthority replaces the authority, or says what would be done next.
func (o *rotateOptions) rotateAuthority(ctx context.Context, a *app, successor authority.Source) error {
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	rotator := rotate.AuthorityRotator{
		Location: o.open(ctx, authority.Location{Client: client, Dir: o.authorityDir}), Gateways: remote.NewClient(config, client),
		Successor: successor, TTL: o.certTTL, Parallel: o.parallel, Timeout: o.timeout,
		Progress: func(text string) { fmt.Fprintln(a.ErrOut, line(text)) },
	}
	show := newAnnouncer(client)
	defer show.close()
	rotator.Renewed = func(ctx context.Context, pod *corev1.Pod, status *api.Status) {
		show.outcome(ctx, renewed(pod, status))
	}
	do := rotator.Rotate
	if o.dryRun {
		do = rotator.Plan
	}
	result, err := do(ctx)
	if errors.Is(err, authority.ErrSigner) && result == nil {
		return o.followSigner(ctx, a, &rotator, show)
	}
	if ctx.Err() != nil {
		if !o.dryRun {
			fmt.Fprintln(a.ErrOut, "to go on: kubectl gateway rotate --ca")
		}
		return ctx.Err()
	}
	if result == nil {
		return err
	}
	report := newReport(a, o.output)
	blocked := o.blocked(ctx, report, show, result.Blocked)
	if printErr := printAuthorityResult(report, result, blocked, err); printErr != nil {
		return printErr
	}
	if err == nil && len(result.Blocked) > 0 {
		return errReported
	}
	return err
}

// authorityOutput is the machine-readable result of rotate --ca.
type authorityOutput struct {
	// Phase is idle, trusting, reissuing or dropping.
	Phase string `json:"phase"`
	// Done reports whether a rotation has come to its end.
	Done bool `json:"done"`
	// Authority and Other (the successor while trusting, the predecessor later) are
	// the fingerprints of the roots.
	Authority string    `json:"authority"`
	Other     string    `json:"other,omitempty"`
	NotAfter  time.Time `json:"notAfter"`
	Where     []string  `json:"where"`
	Backup    string    `json:"backup,omitempty"`
	Gateways  int       `json:"gateways"`
	// Blocked are the gateways that are in the way.
	Blocked []blockedOutput `json:"blocked,omitempty"`
	Next    string          `json:"next,omitempty"`
	itemEnd
}

type blockedOutput struct {
	podItem
	Container string `json:"container"`
	itemEnd
}

// blocked reports the gateways that are in the way of a rotation, shows that at their pods unless it is a dry run, and
// returns them for programs.
func (o *rotateOptions) blocked(ctx context.Context, r *report, show *announcer, gateways []rotate.Blocked) (list []blockedOutput) {
	for _, b := range gateways {
		r.fail(fmt.Sprintf("pod/%s -n %s: ", b.Pod.Name, b.Pod.Namespace), b.Err)
		if !o.dryRun {
			show.outcome(ctx, outcome{pod: b.Pod, err: b.Err, event: announce.Renewed})
		}
		list = append(list, blockedOutput{podItemOf(b.Pod), b.Container, itemEndOf(nil, b.Err)})
	}
	return list
}

// printAuthorityResult prints how far the rotation has come, and what is in its way. err is why it has
// stopped, if it has.
func printAuthorityResult(r *report, result *rotate.AuthorityResult, blocked []blockedOutput, err error) error {
	o := authorityOutput{
		Phase: result.Phase.String(), Done: result.Done, Authority: result.Authority.Roots()[0],
		NotAfter: result.Authority.NotAfter().UTC(), Where: result.Where, Backup: result.Backup,
		Gateways: result.Gateways, Blocked: blocked, Next: result.Next,
	}
	if result.Other != nil {
		o.Other = result.Other.Roots()[0]
	}
	if err != nil {
		o.Error, o.Hint = words(err), line(advice(err))
	}
	said := fmt.Sprintf("authority/%s %s, %d gateways answer (dry run)\nnext: %s\n", o.Authority[:16], o.Phase, o.Gateways, o.Next)
	if result.Done {
		said = fmt.Sprintf("authority/%s rotated (valid until %s)\n", o.Authority[:16], o.NotAfter.Format(time.DateOnly))
		if o.Backup != "" && err == nil && r.format == "" {
			fmt.Fprintln(r.errOut, "old authority kept as "+o.Backup)
		}
	}
	return printRotation(r, o, err, "authority/"+o.Authority[:16]+"\n", said)
}

// printRotation prints how far a rotation has come: out for programs, name for -o name, and said for
// others unless err is why it has come no further.
func printRotation(r *report, out any, err error, name, said string) error {
	switch {
	case r.format != "" && r.format != "name":
		text, err := encode(out, r.format)
		if err != nil {
			return err
		}
		r.print(text)
	case err != nil:
	case r.format == "name":
		r.print(name)
	default:
		r.print(said)
	}
	if r.outErr != nil {
		return fmt.Errorf("printing the result: %w", r.outErr)
	}
	return nil
}
