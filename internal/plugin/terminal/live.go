package terminal

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"golang.org/x/term"
)

// Control sequences of ECMA-48, which every current terminal knows.
const (
	hideCursor  = "\x1b[?25l"
	showCursor  = "\x1b[?25h"
	eraseToEnd  = "\x1b[K"
	eraseBelow  = "\x1b[J"
	upAndToLeft = "\x1b[%dF"
)

// Live draws frames of lines in the same place of a terminal.
type Live struct {
	// size returns the columns and rows of the terminal.
	size func() (int, int)
	// shown is the last frame, nil before the first.
	shown []string
}

// NewLive returns a view on the terminal file.
func NewLive(file *os.File) *Live {
	return NewLiveOf(func() (int, int) {
		columns, rows, err := term.GetSize(int(file.Fd()))
		if err != nil || columns <= 0 || rows <= 0 {
			return 80, 24
		}
		return columns, rows
	})
}

// NewLiveOf returns a view on a terminal whose columns and rows size returns.
func NewLiveOf(size func() (columns, rows int)) *Live { return &Live{size: size} }

// Rows returns how many lines of a frame fit the terminal at its current size.
func (l *Live) Rows() int {
	_, rows := l.size()
	return max(rows-1, 1)
}

// Draw returns the text that replaces the last frame by lines, "" if they are the same.
// Lines may be painted and must be clean otherwise. They are cut to the width of the
// terminal, and to one fewer than it has rows: it never scrolls.
func (l *Live) Draw(lines []string) string {
	columns, rows := l.size()
	frame := make([]string, 0, len(lines))
	cut := lipgloss.NewStyle().Inline(true).MaxWidth(columns)
	for _, line := range lines {
		if lipgloss.Width(line) > columns {
			line = cut.Render(line)
		}
		frame = append(frame, line)
	}
	if room := max(rows-1, 1); len(frame) > room {
		hidden := len(frame) - room + 1
		frame = append(frame[:room-1], fmt.Sprintf("… %d more lines", hidden))
	}
	if l.shown != nil && slices.Equal(frame, l.shown) {
		return ""
	}
	var out strings.Builder
	out.WriteString(hideCursor)
	// A narrower terminal shows a line of the last frame in several rows.
	above := 0
	for _, line := range l.shown {
		above += max(1, (lipgloss.Width(line)+columns-1)/columns)
	}
	if above > 0 {
		fmt.Fprintf(&out, upAndToLeft, above)
	}
	for _, line := range frame {
		out.WriteString(line + eraseToEnd + "\n")
	}
	out.WriteString(eraseBelow)
	l.shown = frame
	return out.String()
}

// End returns the text that restores the terminal, below the last frame.
func (l *Live) End() string { return showCursor }
