package terminal

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/muesli/termenv"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func example() *Table {
	return &Table{Header: []string{"POD", "STATE", "NOTE"}, Rows: [][]Cell{
		{{Text: "pod-01"}, {Text: "ready"}, {}},
		{{Text: "a-大きい-name"}, {"crashed", Bad}, {"大きい\x1b[2J", Caution}},
		{{Text: "short-row"}},
	}}
}

const plainTable = `POD             STATE     NOTE
pod-01          ready     -
a-大きい-name   crashed   大きい\x1b[2J
short-row       -         -
`

func TestTablePlain(t *testing.T) {
	var out bytes.Buffer
	must.Do(t, example().Print(&out, New(&out, false, termenv.Ascii)))
	if out.String() != plainTable {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), plainTable)
	}
}

func TestTableColoured(t *testing.T) {
	var out bytes.Buffer
	must.Do(t, example().Print(&out, New(&out, true, termenv.ANSI)))
	got := out.String()
	for _, want := range []string{"\x1b[1mPOD\x1b[0m", "\x1b[1;31mcrashed\x1b[0m", "\x1b[33m大きい\\x1b[2J\x1b[0m"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	// Colours must not move the columns.
	if bare := regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(got, ""); bare != plainTable {
		t.Errorf("without colours:\n%s\nwant:\n%s", bare, plainTable)
	}
}

func TestPaint(t *testing.T) {
	var out bytes.Buffer
	coloured, plain := New(&out, true, termenv.ANSI256), New(&out, true, termenv.Ascii)
	for _, tone := range []Tone{Normal, Good, Caution, Bad, Dim, Strong} {
		if got := plain.Paint(tone, "two  words "); got != "two  words " {
			t.Errorf("plain tone %d: %q", tone, got)
		}
		got := coloured.Paint(tone, "word")
		if (got == "word") != (tone == Normal) {
			t.Errorf("coloured tone %d: %q", tone, got)
		}
	}
	if coloured.Paint(Bad, "") != "" {
		t.Error("colour around nothing")
	}
}

func TestPaintNameIsStableAndSpreads(t *testing.T) {
	var out bytes.Buffer
	style := New(&out, true, termenv.ANSI)
	colours := map[string]bool{}
	for _, pod := range []string{"pod-01", "pod-02", "pod-03", "pod-04", "web-7d9f-abcde", "db-0", "db-1"} {
		painted := style.PaintName(pod, "x")
		if painted != style.PaintName(pod, "x") || painted == "x" {
			t.Errorf("%s: %q", pod, painted)
		}
		if strings.Contains(painted, "[31m") {
			t.Errorf("%s is red", pod)
		}
		colours[painted] = true
	}
	if len(colours) < 3 {
		t.Errorf("only %d colours for 7 pods", len(colours))
	}
}
