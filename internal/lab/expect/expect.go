// Package expect holds what tests of many packages expect.
package expect

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Patience bounds what a test waits for; it decides nothing.
const Patience = 30 * time.Second

// Error checks that err has the words wanted and a hint, or is nil for "".
func Error(t testing.TB, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case want == "":
	case err == nil:
		t.Errorf("no error, want one with %q", want)
	case !strings.Contains(err.Error(), want):
		t.Errorf("error %q lacks %q", err, want)
	case api.Hint(err) == "":
		t.Errorf("error %q has no hint", err)
	}
}

// Equal checks that got, which what names, is as wanted. Addresses are compared as they are.
func Equal[T any](t testing.TB, what string, want, got T, options ...cmp.Option) {
	t.Helper()
	options = append(options, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}))
	if diff := cmp.Diff(want, got, options...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// Refusal checks that err, which what names, wraps is unless that is nil, that it has the words text and
// its hint the words hint, and that both are one line each, without PEM.
func Refusal(t testing.TB, what string, err, is error, text, hint string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	has := api.Hint(err)
	if is != nil && !errors.Is(err, is) || !strings.Contains(err.Error(), text) || !strings.Contains(has, hint) {
		t.Errorf("%s: %v, hint %q; want %v with %q, hint %q", what, err, has, is, text, hint)
	}
	if both := err.Error() + has; strings.ContainsAny(both, "\n\x1b") || strings.Contains(both, "BEGIN") {
		t.Errorf("%s: not one line without PEM: %q, hint %q", what, err, has)
	}
}

// Message checks that err and its hint are one line each, without PEM.
func Message(t testing.TB, name string, err error) {
	t.Helper()
	for _, text := range []string{err.Error(), api.Hint(err)} {
		if text == "" || strings.Contains(text, "\n") || strings.Contains(text, "BEGIN") {
			t.Errorf("%s: not one line without PEM: %q", name, text)
		}
	}
}

// Eventually waits for a condition that others bring about.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(Patience)
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not in %v: %s", Patience, what)
		case <-time.After(time.Millisecond):
		}
	}
}

// Within returns the next value of c.
func Within[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case value := <-c:
		return value
	case <-time.After(Patience):
		t.Fatalf("nothing in %v", Patience)
		panic("unreachable")
	}
}
