//go:build linux

package handoff

import (
	"context"
	"errors"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestAskerEnds: whatever else comes than one answer to a question ends the exporter, and
// the question under way has an error or that one answer.
func TestAskerEnds(t *testing.T) {
	for name, c := range map[string]struct {
		packets []string
		good    bool // the end is as it should be
	}{
		"closed":      {nil, true},
		"nonsense":    {[]string{"nonsense"}, false},
		"two answers": {[]string{`{"status":{}}`, `{}`}, false},
	} {
		supervisor, theirs := pair(t)
		asker := &Asker{conn: theirs}
		type answer struct {
			status *api.Status
			err    error
		}
		answered := make(chan answer)
		go func() {
			status, err := asker.Ask(t.Context())
			answered <- answer{status, err}
		}()
		var b [2]byte
		if n, err := supervisor.Read(b[:]); err != nil || n != 1 || b[0] != question {
			t.Fatalf("%s: asked %q, %v", name, b[:n], err)
		}
		for _, p := range c.packets {
			if _, err := supervisor.Write([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
		if c.packets == nil {
			supervisor.Close()
		}
		if err := asker.Listen(); (err == nil) != c.good {
			t.Errorf("%s: it ended with %v", name, err)
		}
		if a := <-answered; (a.status == nil) != (a.err != nil) || (a.status != nil) != (len(c.packets) == 2) {
			t.Errorf("%s: answered %+v", name, a)
		}
		if _, err := asker.Ask(t.Context()); err == nil {
			t.Errorf("%s: it asks after its end", name)
		}
	}
}

// TestAskerIsPatientAsLongAsItsCaller is about a gateway that does not answer.
func TestAskerIsPatientAsLongAsItsCaller(t *testing.T) {
	_, theirs := pair(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, err := (&Asker{conn: theirs}).Ask(ctx); !errors.Is(err, enough) {
		t.Error(err)
	}
}
