package rotate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// AuthorityRotator replaces the authority of a cluster while its gateways run.
// At every moment each of them accepts the certificates of all the others:
//
//  1. trust: both roots are published and given to all gateways;
//  2. switch: only then does the new authority sign;
//  3. reissue: all gateways get certificates of the new one;
//  4. drop: only then is the old root taken out of the bundle, and then away from
//     the gateways.
//
// All that is remembered is what package authority keeps and what gateways say: a
// rotation that was interrupted anywhere goes on when it is run again.
type AuthorityRotator struct {
	// Location says where the authorities are kept, and which cluster it is.
	authority.Location
	Gateways *remote.Client
	// Successor says where the new authority comes from.
	Successor authority.Source
	// TTL is how long the gateways' certificates are valid; the issuer's choice if zero.
	TTL time.Duration
	// Parallel and Timeout (of one gateway) are parallel.Default and
	// DefaultTimeout if zero.
	Parallel int
	Timeout  time.Duration
	// Progress, if not nil, is told each thing that is done, one after the other.
	Progress func(line string)
	// Renewed, if not nil, is told each gateway that has a new certificate, and what it says then. Calls may come at
	// the same time.
	Renewed func(context.Context, *corev1.Pod, *api.Status)
	// saying keeps calls of Progress apart.
	saying sync.Mutex
}

// AuthorityResult is how far the rotation of the authority has come.
type AuthorityResult struct {
	// Phase is authority.Idle if it is over, or has not begun.
	Phase authority.Phase
	// Authority signs. Other is its successor or its predecessor, nil in phase Idle.
	Authority, Other *ca.Authority
	// Where names the places that keep them. Backup is the file that has the
	// predecessor when all is done, or "".
	Where  []string
	Backup string
	// Gateways counts those that run and answer.
	Gateways int
	// Blocked are the gateways that keep the rotation from going on.
	Blocked []Blocked
	// Next says what Rotate would do.
	Next string
	// Done reports whether a rotation has come to its end.
	Done bool
}

// Rotate begins a rotation, or continues the one that is under way, and returns
// when it is over. An error stops it where it can be continued, and comes with what
// was reached. It is *BlockedError if gateways are the reason.
func (r *AuthorityRotator) Rotate(ctx context.Context) (*AuthorityResult, error) {
	begun := false
	for {
		rotation, err := authority.OpenRotation(ctx, r.Location)
		if err != nil {
			return nil, err
		}
		if err := rotation.Current().Unlock(); err != nil {
			return nil, err
		}
		result := describe(rotation)
		finished, err := rotation.CatchUp(ctx)
		if err != nil {
			return result, err
		}
		if finished {
			r.say("the rotation was finished elsewhere: authority %s is in its place here, too", short(rotation.Current()))
			result.Done, result.Backup, result.Next = true, rotation.Backup(), ""
			return result, nil
		}
		if !begun && rotation.Phase() != authority.Idle {
			if err := rotation.Follows(r.Successor); err != nil {
				return result, err
			}
			r.say("a rotation is under way: going on with it (%s)", rotation.Phase())
		}
		begun = true
		if err := r.step(ctx, rotation, result); err != nil || result.Done {
			return result, err
		}
	}
}

// step takes the rotation to its next phase.
func (r *AuthorityRotator) step(ctx context.Context, rotation *authority.Rotation, result *AuthorityResult) error {
	switch rotation.Phase() {
	case authority.Idle:
		if err := rotation.Begin(ctx, r.Successor); err != nil {
			return err
		}
		r.say("1/4 trust: authority %s will replace %s", short(rotation.Other()), short(rotation.Current()))
		return nil
	case authority.Trusting:
		return r.trustBoth(ctx, rotation, result)
	case authority.Reissuing:
		return r.reissue(ctx, rotation, result)
	}
	return r.drop(ctx, rotation, result)
}

func (r *AuthorityRotator) trustBoth(ctx context.Context, rotation *authority.Rotation, result *AuthorityResult) error {
	if err := rotation.Publish(ctx); err != nil {
		return err
	}
	if err := r.reach(ctx, goalTrust(rotation), result); err != nil {
		return err
	}
	r.say("1/4 trust: %s", count(result.Gateways, "trusts both authorities", "trust both authorities"))
	if err := rotation.Switch(ctx); err != nil {
		return err
	}
	r.say("2/4 switch: authority %s signs from now on", short(rotation.Current()))
	return nil
}

func (r *AuthorityRotator) reissue(ctx context.Context, rotation *authority.Rotation, result *AuthorityResult) error {
	if err := rotation.Publish(ctx); err != nil {
		return err
	}
	// A gateway that was enabled by an operator who had not heard of the new authority
	// may not trust it yet.
	if err := r.reach(ctx, goalTrust(rotation), result); err != nil {
		return err
	}
	if err := r.reach(ctx, goalReissue(rotation), result); err != nil {
		return err
	}
	r.say("3/4 reissue: %s of authority %s", count(result.Gateways, "has a certificate", "have certificates"), short(rotation.Current()))
	if err := rotation.Drop(ctx); err != nil {
		return err
	}
	r.say("4/4 drop: authority %s is out of the trust bundle", short(rotation.Other()))
	return nil
}

func (r *AuthorityRotator) drop(ctx context.Context, rotation *authority.Rotation, result *AuthorityResult) error {
	// Since the bundle has one root, nobody can load the old authority any more. What
	// it issued right before is replaced while all gateways still trust it.
	if err := r.reach(ctx, goalReissue(rotation), result); err != nil {
		return err
	}
	if err := r.reach(ctx, goalDrop(rotation), result); err != nil {
		return err
	}
	r.say("4/4 drop: %s authority %s alone", count(result.Gateways, "trusts", "trust"), short(rotation.Current()))
	if err := rotation.Finish(ctx); err != nil {
		return err
	}
	*result = AuthorityResult{Authority: rotation.Current(), Where: rotation.Where(), Backup: rotation.Backup(), Gateways: result.Gateways, Done: true}
	return nil
}

// Plan looks how far a rotation has come, and what Rotate would do next. It
// changes nothing.
func (r *AuthorityRotator) Plan(ctx context.Context) (*AuthorityResult, error) {
	rotation, err := authority.OpenRotation(ctx, r.Location)
	if err != nil {
		return nil, err
	}
	if rotation.Phase() != authority.Idle {
		if err := rotation.Follows(r.Successor); err != nil {
			return nil, err
		}
	}
	result := describe(rotation)
	goal := goalTrust(rotation)
	if rotation.Phase() == authority.Dropping {
		goal = goalDrop(rotation)
	}
	seen, err := r.inspect(ctx, goal)
	if err != nil {
		return nil, err
	}
	result.Gateways, result.Blocked = seen.count, seen.blocked
	return result, nil
}

func describe(rotation *authority.Rotation) *AuthorityResult {
	phase := rotation.Phase()
	return &AuthorityResult{Phase: phase, Authority: rotation.Current(), Other: rotation.Other(), Where: rotation.Where(), Next: [...]string{
		authority.Idle:      "1/4 trust: make a new authority, publish both roots, and give them to all gateways",
		authority.Trusting:  "1/4 trust: give both roots to all gateways; then 2/4 switch: sign with the new authority",
		authority.Reissuing: "3/4 reissue: give all gateways certificates of the new authority; then 4/4 drop: publish its root alone",
		authority.Dropping:  "4/4 drop: take the old root away from all gateways, and put the old authority away",
	}[phase]}
}

func (r *AuthorityRotator) say(format string, args ...any) {
	if r.Progress != nil {
		r.saying.Lock()
		defer r.saying.Unlock()
		r.Progress(fmt.Sprintf(format, args...))
	}
}

func (r *AuthorityRotator) timeout() time.Duration { return cmp.Or(r.Timeout, DefaultTimeout) }

func (r *AuthorityRotator) parallel() int { return cmp.Or(max(r.Parallel, 0), parallel.Default) }

func short(a *ca.Authority) string { return a.Roots()[0][:16] }

func count(n int, one, many string) string {
	if n == 1 {
		return "1 gateway " + one
	}
	return fmt.Sprintf("%d gateways %s", n, many)
}

// goal is what all gateways are to be brought to.
type goal struct {
	// doing is what comes after that, in words.
	doing string
	// authority signs, and its roots are what gateways are given.
	authority ca.Issuer
	// known are the roots that a certificate may lead to; others are none of the
	// rotation's business. issuers are those of them that it may stay with. Nil stands for all.
	known, issuers []string
	// roots are what a gateway must trust, and nothing else if alone is set.
	roots []string
	alone bool
	// overlook goes on without gateways that cannot be brought there.
	overlook bool
}

func goalTrust(rotation *authority.Rotation) goal {
	both := rotation.Both()
	return goal{doing: "signing with the new authority", authority: both, known: both.Roots(), issuers: both.Roots(), roots: both.Roots()}
}

func goalReissue(rotation *authority.Rotation) goal {
	g := goalTrust(rotation)
	g.doing = "dropping the old root, which is in use"
	g.issuers, g.roots = g.issuers[:1], g.roots[:1]
	return g
}

func goalDrop(rotation *authority.Rotation) goal {
	g := goalReissue(rotation)
	g.doing = "putting the old authority away"
	g.authority, g.alone = rotation.Current(), true
	return g
}

// issued reports whether a gateway may keep its certificate.
func (g *goal) issued(status *api.Status) bool {
	return g.issuers == nil || slices.Contains(g.issuers, status.Cert.Issuer) && status.Cert.NotAfter.After(time.Now())
}

func (g *goal) reached(status *api.Status) bool {
	trusted := status.Cert.Authorities
	return g.issued(status) && holdsAll(trusted, g.roots) && (!g.alone || holdsAll(g.roots, trusted))
}

func holdsAll(list, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(list, w) })
}
