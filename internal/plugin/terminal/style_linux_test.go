package terminal

import (
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pty"
)

func TestColourOnATerminal(t *testing.T) {
	_, tty := pty.Open(t)
	for _, c := range []struct {
		name   string
		env    map[string]string
		colour bool
	}{
		{"an ordinary terminal", map[string]string{"TERM": "xterm-256color"}, true},
		{"an empty NO_COLOR", map[string]string{"TERM": "xterm-256color", "NO_COLOR": ""}, true},
		{"NO_COLOR", map[string]string{"TERM": "xterm-256color", "NO_COLOR": "1"}, false},
		{"NO_COLOR beside a force", map[string]string{"TERM": "xterm-256color", "NO_COLOR": "0", "CLICOLOR_FORCE": "1"}, false},
		{"a dumb terminal", map[string]string{"TERM": "dumb", "COLORTERM": "truecolor"}, false},
	} {
		style := For(tty, getenv(c.env))
		if !style.Terminal() {
			t.Errorf("%s: no terminal", c.name)
		}
		if got := style.Paint(Bad, "x") != "x"; got != c.colour {
			t.Errorf("%s: colour is %v", c.name, got)
		}
	}
}
