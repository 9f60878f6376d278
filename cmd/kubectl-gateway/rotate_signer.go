package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// followSigner brings all gateways the roots of the cluster's signer, or says what would be done.
func (o *rotateOptions) followSigner(ctx context.Context, a *app, rotator *rotate.AuthorityRotator, show *announcer) error {
	if o.source.certFile != "" {
		return errors.New("--from-cert and --from-key are about an authority, and a signer of the cluster issues the certificates")
	}
	do := func(ctx context.Context) (*rotate.SignerResult, error) { return rotator.Follow(ctx, false) }
	if o.dryRun {
		do = rotator.FollowPlan
	}
	result, err := do(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if result == nil {
		return err
	}
	report := newReport(a, o.output)
	blocked := o.blocked(ctx, report, show, result.Blocked)
	if printErr := printFollowed(report, result, blocked, err); printErr != nil {
		return printErr
	}
	if err == nil && len(result.Blocked) > 0 {
		return errReported
	}
	return err
}

// followOutput is the machine-readable result of rotate --ca with a signer.
type followOutput struct {
	Signer string `json:"signer"`
	// Roots are the SHA-256 fingerprints of what the signer is trusted by, and NotAfter is when the
	// first of them ends.
	Roots    []string  `json:"roots"`
	NotAfter time.Time `json:"notAfter"`
	// Done reports whether all gateways trust these roots and no others.
	Done     bool            `json:"done"`
	Gateways int             `json:"gateways"`
	Blocked  []blockedOutput `json:"blocked,omitempty"`
	Next     string          `json:"next,omitempty"`
	itemEnd
}

// printFollowed prints how far the gateways have come, and which are in the way. err is why they have come no further.
func printFollowed(r *report, result *rotate.SignerResult, blocked []blockedOutput, err error) error {
	_, notAfter := ca.Validity(result.Signer.Trust())
	out := followOutput{Signer: result.Signer.Name, Roots: result.Signer.Roots(), NotAfter: notAfter.UTC(),
		Done: err == nil && result.Next == "" && len(blocked) == 0, Gateways: result.Gateways, Blocked: blocked, Next: result.Next}
	if err != nil {
		out.Error, out.Hint = words(err), line(advice(err))
	}
	said := fmt.Sprintf("signer/%s followed by %d gateways (%s valid until %s)\n", out.Signer, out.Gateways, roots(len(out.Roots)), out.NotAfter.Format(time.DateOnly))
	if out.Next != "" {
		said = fmt.Sprintf("signer/%s followed by %d gateways in part (dry run)\nnext: %s\n", out.Signer, out.Gateways, out.Next)
	}
	return printRotation(r, out, err, "signer/"+out.Signer+"\n", said)
}
