package terminal

import (
	"bytes"
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
)

// columnGap is the number of spaces between columns, as in kubectl's tables.
const columnGap = 3

// Cell is one field of a table.
type Cell struct {
	Text string
	Tone Tone
}

// Table is a table in the form of kubectl's: a header in capitals, columns
// aligned with spaces, no borders.
type Table struct {
	Header []string
	// NoHeader leaves it out.
	NoHeader bool
	Rows     [][]Cell
}

// Print writes the table to w in one piece. Every text is cleaned; an empty one
// becomes "-", so that each line has the same number of fields.
func (t *Table) Print(w io.Writer, style *Style) error {
	rows := make([][]Cell, 0, len(t.Rows)+1)
	if !t.NoHeader {
		header := make([]Cell, len(t.Header))
		for i, text := range t.Header {
			header[i] = Cell{text, Strong}
		}
		rows = append(rows, header)
	}
	rows = append(rows, t.Rows...)

	widths := make([]int, len(t.Header))
	for r, row := range rows {
		cells := make([]Cell, len(t.Header))
		for i := range cells {
			cells[i].Text = "-"
			if i < len(row) && row[i].Text != "" {
				cells[i] = Cell{Clean(row[i].Text), row[i].Tone}
			}
			widths[i] = max(widths[i], lipgloss.Width(cells[i].Text))
		}
		rows[r] = cells
	}

	var out bytes.Buffer
	for _, row := range rows {
		for i, cell := range row {
			out.WriteString(style.Paint(cell.Tone, cell.Text))
			if i < len(row)-1 {
				out.WriteString(strings.Repeat(" ", widths[i]-lipgloss.Width(cell.Text)+columnGap))
			}
		}
		out.WriteByte('\n')
	}
	_, err := w.Write(out.Bytes())
	return err
}
