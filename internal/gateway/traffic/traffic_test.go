package traffic

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestTable: every reason has a direction, a text of its own, and a word that is no
// other's in that direction.
func TestTable(t *testing.T) {
	word := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	texts := map[string]Reason{}
	for _, d := range Directions() {
		words := map[string]Reason{}
		for _, r := range Reasons(d) {
			if other, taken := words[r.Word()]; taken || !word.MatchString(r.Word()) {
				t.Errorf("%v: the word %q of %q is not fit, or also that of %q", d, r.Word(), r, other)
			}
			if other, taken := texts[r.String()]; r.String() == "" || taken && other != r {
				t.Errorf("the text %q stands twice, or is empty", r)
			}
			words[r.Word()], texts[r.String()] = r, r
		}
	}
	if len(texts) != int(reasons)-2 {
		t.Errorf("%d of %d reasons have a direction", len(texts), reasons-2)
	}
	if diff := cmp.Diff(row{}, table[None], cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("no reason has words: %s", diff)
	}
}

func TestUnencrypted(t *testing.T) {
	var c Counters
	if diff := cmp.Diff([]api.Unencrypted(nil), c.Unencrypted()); diff != "" {
		t.Errorf("at the start: %s", diff)
	}
	for _, r := range []Reason{PeerRefused, OptionLost, PeerRefused, Other} {
		c.Of(Outbound).Because(r)
	}
	c.Of(Inbound).Because(Plaintext)
	want := []api.Unencrypted{
		{Direction: api.Outbound, Reason: "option_lost", Connections: 1}, {Direction: api.Outbound, Reason: "other", Connections: 1},
		{Direction: api.Outbound, Reason: "peer_refused", Connections: 2}, {Direction: api.Inbound, Reason: "plaintext", Connections: 1},
	}
	if diff := cmp.Diff(want, c.Unencrypted()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
