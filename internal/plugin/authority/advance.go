package authority

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// CatchUp finishes a change that was interrupted between two stores, or in one.
// finished reports whether only this machine's part was missing of a rotation that
// is over in the cluster.
func (r *Rotation) CatchUp(ctx context.Context) (finished bool, err error) {
	wanted := r.kept()
	for i, s := range r.stores {
		for _, root := range r.retired {
			if err := s.retireRoot(ctx, root); err != nil {
				return false, err
			}
		}
		before := r.states[i].plain()
		if err := r.moveOne(ctx, i, wanted); err != nil {
			return false, err
		}
		finished = finished || i > 0 && wanted[next] == nil && wanted[previous] == nil && (before[next] != nil || before[previous] != nil)
	}
	return finished, nil
}

// Begin makes or imports the successor, and keeps it. Its key is encrypted as the current one is, unless s says
// otherwise. It needs phase Idle.
func (r *Rotation) Begin(ctx context.Context, s Source) error {
	if r.Phase() != Idle {
		return fmt.Errorf("beginning a rotation: one is under way (%s)", r.Phase())
	}
	if err := s.Validate(); err != nil {
		return err
	}
	if keys.KindOf(r.Current()) == keys.Program && s.Command == nil && !s.Encrypt && !s.exists() {
		return api.WithHint(fmt.Errorf("%s, and a new authority needs another one", keys.Describe(r.Current())),
			"give --key-command for a key that a program holds, or --encrypt for one in a file")
	}
	a, err := s.make(r.keys, r.Current().TrustDomain(), r.Current())
	if err != nil {
		return err
	}
	switch {
	case a.Equal(r.Current()):
		return api.WithHint(fmt.Errorf("%w, and the new one is the same", ErrExists), "there is nothing to do")
	case a.Root().Equal(r.Current().Root()):
		return api.WithHint(errors.New("the new authority has the same root as the current one: gateways trust it already"),
			"use it with 'kubectl gateway init-ca --force', then 'kubectl gateway rotate --all -A'")
	}
	if err := checkNotRetired(a, r.retired, r.stores[0].String()); err != nil {
		return err
	}
	return r.moveAll(ctx, state{current: r.Current(), next: a})
}

// Publish puts both roots into the trust bundle: gateways that are enabled from
// then on trust both. It needs phase Trusting or Reissuing.
func (r *Rotation) Publish(ctx context.Context) error {
	old, successor := r.Current(), r.Other()
	switch r.Phase() {
	case Trusting:
	case Reissuing:
		old, successor = successor, old
	default:
		return fmt.Errorf("publishing two roots: the rotation is %s", r.Phase())
	}
	e, err := ca.Endorse(old, successor, time.Now().Add(statementLife))
	if err != nil {
		return err
	}
	return r.publish(ctx, r.Both(), e)
}

// Switch makes the successor the current authority. It needs phase Trusting, and
// that every gateway trusts the successor.
func (r *Rotation) Switch(ctx context.Context) error {
	successor := r.Other()
	if r.Phase() != Trusting || r.bundle == nil || !r.bundle.holds(successor) {
		return fmt.Errorf("switching to the next authority: the rotation is %s, or its root is not published", r.Phase())
	}
	return r.moveAll(ctx, state{current: successor, previous: r.Current()})
}

// Drop takes the predecessor's root out of the trust bundle. It needs phase
// Reissuing, and that no gateway uses a certificate of the predecessor.
func (r *Rotation) Drop(ctx context.Context) error {
	if r.Phase() != Reissuing {
		return fmt.Errorf("dropping the old root: the rotation is %s", r.Phase())
	}
	return r.publish(ctx, r.Current(), nil)
}

// Finish ends the rotation, retires the predecessor's root, and makes a backup of the
// predecessor if this machine has it. It needs phase Dropping, and that no gateway trusts
// the predecessor.
func (r *Rotation) Finish(ctx context.Context) error {
	if r.Phase() != Dropping {
		return fmt.Errorf("finishing: the rotation is %s", r.Phase())
	}
	// Somebody may have put the old root back.
	if err := r.publish(ctx, r.Current(), nil); err != nil {
		return err
	}
	to := state{current: r.Current(), next: r.kept()[next]}
	// The store that counts comes last: until then the rotation is not over, and
	// opening it again leads here.
	for i := range slices.Backward(r.stores) {
		if err := r.moveOne(ctx, i, to); err != nil {
			return err
		}
	}
	return nil
}

// moveAll brings every store to a state, the one that counts first.
func (r *Rotation) moveAll(ctx context.Context, to state) error {
	for i := range r.stores {
		if err := r.moveOne(ctx, i, to); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rotation) moveOne(ctx context.Context, i int, to state) error {
	from := r.states[i]
	if to.equal(from) {
		return nil
	}
	// Someone else may have changed it since it was read, on this machine, too.
	found, err := r.stores[i].read(ctx)
	if err != nil {
		return err
	}
	if !found.equal(from) {
		return api.WithHint(fmt.Errorf("%s: %w", r.stores[i], ErrChanged), "run the command again")
	}
	// What is replaced is kept as the previous one, even where the rotation is over.
	if !from[current].Equal(to[current]) && to[previous] == nil {
		kept := to
		kept[previous] = from[current]
		if err := move(ctx, r.stores[i], from, kept); err != nil {
			return err
		}
		from = kept
	}
	if err := move(ctx, r.stores[i], from, to); err != nil {
		return err
	}
	r.states[i] = to
	return nil
}

// publish makes a's bundle that of the cluster. The error is ErrForeign if the
// bundle has become somebody else's, and ErrChanged if that happens just now.
func (r *Rotation) publish(ctx context.Context, a *ca.Authority, e *ca.Endorsement) error {
	old, err := getBundle(ctx, r.client)
	if err != nil && !errors.Is(err, ErrNoBundle) {
		return err
	}
	if old != nil {
		published, err := readBundle(old)
		if err != nil {
			return err
		}
		if err := r.checkBundle(published); err != nil {
			return err
		}
		if published.states(a, e) {
			r.bundle = published
			return nil
		}
	}
	published, err := putBundle(ctx, r.client, old, a, e)
	if err != nil {
		return err
	}
	r.bundle = published
	return nil
}
