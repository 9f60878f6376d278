package terminal

import (
	"hash/fnv"
	"io"
	"os"
	"strconv"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
	"golang.org/x/term"
)

// Tone is what a piece of text means to its reader.
type Tone int

const (
	Normal Tone = iota
	// Good means: as it should be.
	Good
	// Caution means: look at it soon.
	Caution
	// Bad means: act.
	Bad
	// Dim means: of less interest.
	Dim
	// Strong stands out without a judgement.
	Strong
)

// Style renders text for one stream. The zero value is not usable; see For.
type Style struct {
	renderer *lipgloss.Renderer
	terminal bool
}

// For returns the style of w: with colours if w is a terminal that has them, unless the
// environment, read with getenv, has NO_COLOR (with any value but the empty one, see
// no-color.org) or TERM=dumb.
func For(w io.Writer, getenv func(string) string) *Style {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return New(w, false, termenv.Ascii)
	}
	if getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return New(w, true, termenv.Ascii)
	}
	// Consoles of Windows interpret colours only on request. The setting outlives this
	// program, and is harmless to others.
	output := termenv.NewOutput(w, termenv.WithEnvironment(environment(getenv)))
	_, _ = termenv.EnableVirtualTerminalProcessing(output)
	return New(w, true, output.ColorProfile())
}

// New returns a style of the caller's choice.
func New(w io.Writer, isTerminal bool, profile termenv.Profile) *Style {
	renderer := lipgloss.NewRenderer(w)
	renderer.SetColorProfile(profile)
	// lipgloss asks the terminal unless this is set. No style here depends on it.
	renderer.SetHasDarkBackground(true)
	return &Style{renderer: renderer, terminal: isTerminal}
}

// Terminal reports whether the output goes to a terminal.
func (s *Style) Terminal() bool { return s.terminal }

// Paint returns text, which must be one line, in the colour of tone.
func (s *Style) Paint(tone Tone, text string) string {
	style := s.renderer.NewStyle()
	// The first sixteen colours follow the theme of the user's terminal.
	switch tone {
	case Good:
		style = style.Foreground(lipgloss.Color("2"))
	case Caution:
		style = style.Foreground(lipgloss.Color("3"))
	case Bad:
		style = style.Foreground(lipgloss.Color("1")).Bold(true)
	case Dim:
		style = style.Faint(true)
	case Strong:
		style = style.Bold(true)
	default:
		return text
	}
	return render(style, text)
}

// PaintName returns text in a colour that depends on name alone: a pod keeps its colour
// from run to run. Red is not among the colours, as Bad is red.
func (s *Style) PaintName(name, text string) string {
	colours := [...]int{2, 3, 4, 5, 6, 10, 11, 12, 13, 14}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name))
	colour := colours[sum.Sum32()%uint32(len(colours))]
	return render(s.renderer.NewStyle().Foreground(lipgloss.Color(strconv.Itoa(colour))), text)
}

func render(style lipgloss.Style, text string) string {
	if text == "" {
		return ""
	}
	return style.Inline(true).Render(text)
}

// environment is the injected environment, for termenv.
type environment func(string) string

func (e environment) Getenv(key string) string { return e(key) }

func (e environment) Environ() []string { return nil }
