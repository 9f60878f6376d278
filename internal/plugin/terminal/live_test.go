package terminal

import (
	"strings"
	"testing"

	"github.com/charmbracelet/lipgloss"
)

func TestLive(t *testing.T) {
	columns, rows := 20, 5
	l := &Live{size: func() (int, int) { return columns, rows }}
	first := l.Draw([]string{"one", "two"})
	if want := "\x1b[?25lone\x1b[K\ntwo\x1b[K\n\x1b[J"; first != want {
		t.Errorf("the first frame is %q", first)
	}
	if again := l.Draw([]string{"one", "two"}); again != "" {
		t.Errorf("the same frame is drawn as %q", again)
	}
	second := l.Draw([]string{"one"})
	if want := "\x1b[?25l\x1b[2Fone\x1b[K\n\x1b[J"; second != want {
		t.Errorf("the next frame is %q", second)
	}
	// A painted line is cut where it is too wide to see, and stays painted.
	painted := "\x1b[32m" + strings.Repeat("x", 50) + "\x1b[0m"
	out := l.Draw([]string{painted, "b", "c", "d", "e", "f"})
	lines := strings.Split(out, "\n")
	if n := strings.Count(lines[0], "x"); n != columns || !strings.Contains(lines[0], "\x1b[32m") {
		t.Errorf("%d letters in %q", n, lines[0])
	}
	if len(lines) != rows || !strings.Contains(out, "… 3 more lines") || strings.Contains(out, "d\x1b") {
		t.Errorf("%d lines in %q", len(lines), out)
	}
	// Narrower, each row of the old frame is overwritten.
	columns = 10
	if out := l.Draw([]string{"one"}); !strings.Contains(out, "\x1b[6F") {
		t.Errorf("after the terminal got narrower: %q", out)
	}
	if lipgloss.Width(l.shown[0]) != 3 || l.End() != "\x1b[?25h" {
		t.Errorf("shown is %q", l.shown)
	}
}
