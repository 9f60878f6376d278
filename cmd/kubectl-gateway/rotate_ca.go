package main

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	do := rotator.Rotate
	if o.dryRun {
		do = rotator.Plan
	}
	result, err := do(ctx)
	if errors.Is(err, authority.ErrSigner) && result == nil {
		return o.followSigner(ctx, a, &rotator)
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
	for _, b := range result.Blocked {
		report.fail(fmt.Sprintf("pod/%s -n %s: ", b.Pod, b.Namespace), b.Err)
	}
	if printErr := printAuthorityResult(report, result, err); printErr != nil {
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

// printAuthorityResult prints how far the rotation has come. err is why it has
// stopped, if it has.
func printAuthorityResult(r *report, result *rotate.AuthorityResult, err error) error {
	o := authorityOutput{
		Phase: result.Phase.String(), Done: result.Done, Authority: result.Authority.Roots()[0],
		NotAfter: result.Authority.NotAfter().UTC(), Where: result.Where, Backup: result.Backup,
		Gateways: result.Gateways, Next: result.Next,
	}
	if result.Other != nil {
		o.Other = result.Other.Roots()[0]
	}
	for _, b := range result.Blocked {
		o.Blocked = append(o.Blocked, blockedOutput{podItem{b.Namespace, b.Pod}, b.Container, itemEndOf(nil, b.Err)})
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
