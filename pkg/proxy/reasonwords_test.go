//go:build linux

package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestReasonWords: every reason has a word of its own, the words are those of the API,
// in order, and there is a place for each.
func TestReasonWords(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	words := []string{api.OtherReason, reasonWord(statusNotAllowed.String()), reasonWord(statusUnreachable.String())}
	reasons := 0
	ast.Inspect(file, func(n ast.Node) bool {
		literal, ok := n.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		reason, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		reasons++
		word := reasonWord(reason)
		if word == api.OtherReason {
			t.Errorf("%q has no word", reason)
		}
		words = append(words, word)
		return true
	})
	var known []string
	for _, direction := range []string{api.Outbound, api.Inbound} {
		list := api.UnencryptedReasons(direction)
		if len(list) > maxReasons || !slices.IsSorted(list) || !slices.Contains(list, api.OtherReason) {
			t.Errorf("%s: %q", direction, list)
		}
		known = append(known, list...)
	}
	slices.Sort(words)
	slices.Sort(known)
	if words, known = slices.Compact(words), slices.Compact(known); !slices.Equal(words, known) || reasons < 30 {
		t.Errorf("%d reasons have the words\n%q, and the API has\n%q", reasons, words, known)
	}
	if word := reasonWord(status(77).String()); word != api.OtherReason {
		t.Errorf("an unknown answer is %q", word)
	}
	if word := reasonWord(reasonPeerRefused + "; " + reasonUnreachable); word != "unreachable" {
		t.Errorf("plaintext that failed is %q", word)
	}
}

func TestUnencrypted(t *testing.T) {
	c := NewCounters()
	if list := c.Unencrypted(); list != nil {
		t.Errorf("at the start: %v", list)
	}
	for _, r := range []struct {
		direction string
		counters  *direction
		reason    string
	}{
		{api.Outbound, &c.outbound, reasonPeerRefused}, {api.Outbound, &c.outbound, reasonPeerRefused}, {api.Outbound, &c.outbound, "unheard of"},
		{api.Inbound, &c.inbound, reasonPlaintext},
		// No inbound connection has it.
		{api.Inbound, &c.inbound, reasonOptionLost},
	} {
		connection := &connection{counters: r.counters}
		connection.line.Direction = r.direction
		connection.because(r.reason)
		if connection.line.Reason != r.reason {
			t.Errorf("%q is logged as %q", r.reason, connection.line.Reason)
		}
	}
	want := []api.Unencrypted{
		{Direction: api.Outbound, Reason: "other", Connections: 1}, {Direction: api.Outbound, Reason: "peer_refused", Connections: 2},
		{Direction: api.Inbound, Reason: "other", Connections: 1}, {Direction: api.Inbound, Reason: "plaintext", Connections: 1},
	}
	if list := c.Unencrypted(); !slices.Equal(list, want) {
		t.Errorf("%+v", list)
	}
}
