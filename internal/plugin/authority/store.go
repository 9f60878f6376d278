package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// slot is one of the up to three authorities that are kept during a rotation.
type slot int

const (
	current slot = iota
	next
	previous
	slotCount
)

// state holds an authority for each slot, or nil.
type state [slotCount]*ca.Authority

func (s state) equal(t state) bool {
	for i := range s {
		if !s[i].Equal(t[i]) {
			return false
		}
	}
	return true
}

// readSlots reads all slots with get, whose error is ErrNoAuthority for an empty one.
func readSlots(get func(slot) (*ca.Authority, error), where string) (state, error) {
	var found state
	for i := range slotCount {
		a, err := get(i)
		if err != nil && !errors.Is(err, ErrNoAuthority) {
			return state{}, err
		}
		found[i] = a
	}
	if found == (state{}) {
		return found, fmt.Errorf("%w in %s", ErrNoAuthority, where)
	}
	return found, nil
}

// plain returns s without what an interrupted change has left in two slots. That
// is the state that the change came from, or the one that it led to.
func (s state) plain() state {
	for _, other := range []slot{next, previous} {
		if s[other].Equal(s[current]) {
			s[other] = nil
		}
	}
	return s
}

// checkTime returns [ca.ErrExpired] unless a may be in a slot at present. The
// previous authority signs nothing, and may have expired.
func checkTime(a *ca.Authority, in slot) error {
	if in == previous {
		return nil
	}
	return a.ValidAt(time.Now())
}

// store keeps authorities: a directory, or Secrets.
type store interface {
	String() string
	// read returns ErrNoAuthority if no slot is filled.
	read(ctx context.Context) (state, error)
	// fill fills an empty slot. The error is ErrChanged if it is not empty.
	fill(ctx context.Context, to slot, a *ca.Authority) error
	// replace replaces the current authority in one step.
	replace(ctx context.Context, a *ca.Authority) error
	// empty empties a slot. With backup it keeps the authority in another place, if
	// the store has one.
	empty(ctx context.Context, from slot, backup bool) error
	// retiredRoots returns the roots that rotations have retired, the newest last.
	retiredRoots(ctx context.Context) ([]*x509.Certificate, error)
	// retireRoot adds one, unless it is there.
	retireRoot(ctx context.Context, root *x509.Certificate) error
}

// move brings s from one state to another. Interrupted anywhere, it leaves a state
// whose plain form is from or to.
func move(ctx context.Context, s store, from, to state) error {
	// What is about to be replaced is kept first.
	if err := moveSlot(ctx, s, previous, from, to); err != nil {
		return err
	}
	if !from[current].Equal(to[current]) {
		if err := s.replace(ctx, to[current]); err != nil {
			return err
		}
	}
	return moveSlot(ctx, s, next, from, to)
}

// moveSlot empties and fills one slot as move needs it. What is the current
// authority now needs no backup. The root of a predecessor that goes is retired first.
func moveSlot(ctx context.Context, s store, at slot, from, to state) error {
	if from[at].Equal(to[at]) {
		return nil
	}
	if at == previous && from[at] != nil && !slices.ContainsFunc(to[:], func(kept *ca.Authority) bool {
		return kept != nil && kept.Root().Equal(from[at].Root())
	}) {
		if err := s.retireRoot(ctx, from[at].Root()); err != nil {
			return err
		}
	}
	if from[at] != nil {
		if err := s.empty(ctx, at, !from[at].Equal(to[current])); err != nil {
			return err
		}
	}
	if to[at] == nil {
		return nil
	}
	return s.fill(ctx, at, to[at])
}
