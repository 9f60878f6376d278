package terminal

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pseudoTerminal returns the program's end of a new terminal.
func pseudoTerminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty
}

func TestColourOnATerminal(t *testing.T) {
	tty := pseudoTerminal(t)
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
