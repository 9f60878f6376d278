package edges

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// TableOptions say what a table shows.
type TableOptions struct {
	// Home is the namespace whose name is left out, empty for none.
	Home string
	// Wide adds the columns that are rarely of interest.
	Wide bool
	// NoHeaders leaves out the names of the columns.
	NoHeaders bool
	// Now is the time that ages count from. Zero means no ages.
	Now time.Time
}

// Table writes l as a table.
func (l *List) Table(w io.Writer, style *terminal.Style, o TableOptions) error {
	table := terminal.Table{NoHeader: o.NoHeaders, Header: []string{"SOURCE", "DESTINATION", "SECURED", "WIRE", "CONNECTIONS", "OPEN", "SENT", "RECEIVED", "LAST-SEEN"}}
	if o.Wide {
		table.Header = append(table.Header, "BACKENDS", "SOURCE-IP", "DESTINATION-IP", "SOURCE-IDENTITY", "DESTINATION-IDENTITY", "SEEN-BY")
	}
	table.Rows = lists.Map(l.Items, func(e Edge) []terminal.Cell { return e.row(o) })
	return table.Print(w, style)
}

func (e *Edge) row(o TableOptions) []terminal.Cell {
	sent, received := terminal.Bytes(e.Sent), terminal.Bytes(e.Received)
	if e.Existing {
		sent, received = "", ""
	}
	row := []terminal.Cell{
		{Text: e.Source.Text(o.Home)}, {Text: e.target(o.Home)}, e.secured(), {Text: e.Wire},
		{Text: strconv.FormatUint(e.Connections, 10)}, {Text: strconv.FormatUint(e.Open, 10)},
		{Text: sent}, {Text: received}, {Text: e.age(o.Now)},
	}
	if o.Wide {
		backends := lists.Map(e.Backends, func(b Endpoint) string { return b.Text(o.Home) })
		row = append(row, terminal.Cell{Text: strings.Join(backends, ",")},
			terminal.Cell{Text: e.Source.Address.String()}, terminal.Cell{Text: e.Destination.Address.String()},
			terminal.Cell{Text: e.SourceIdentity}, terminal.Cell{Text: e.DestinationIdentity},
			terminal.Cell{Text: strings.Join(e.SeenBy, ",")})
	}
	return row
}

// target is the destination with its port.
func (e *Edge) target(home string) string {
	text := e.Destination.Text(home)
	if e.Destination.Network.IsValid() {
		return text
	}
	if e.Destination.Kind == "" && e.Destination.Address.Is6() {
		text = "[" + text + "]"
	}
	return text + ":" + strconv.Itoa(int(e.Port))
}

// secured says whether the edge is encrypted, and if not, why.
func (e *Edge) secured() terminal.Cell {
	switch e.Verdict {
	case Encrypted:
		if e.Reason != "" {
			return terminal.Cell{Text: "√ " + e.Reason, Tone: terminal.Caution}
		}
		return terminal.Cell{Text: "√", Tone: terminal.Good}
	case Refused:
		return terminal.Cell{Text: "× refused: " + e.Reason, Tone: terminal.Caution}
	}
	return terminal.Cell{Text: "× " + e.Reason, Tone: terminal.Bad}
}

func (e *Edge) age(now time.Time) string {
	switch {
	case now.IsZero(), e.LastSeen.IsZero():
		return ""
	case e.Open > 0:
		return "now"
	}
	return duration.HumanDuration(max(0, now.Sub(e.LastSeen)))
}

// Summary writes a line with the number of edges of each kind, and below it a line for
// whatever is missing.
func (l *List) Summary(w io.Writer, style *terminal.Style, notes []string) error {
	counts := l.Counts()
	tone := terminal.Good
	if counts[Plaintext] > 0 {
		tone = terminal.Bad
	} else if counts[Refused] > 0 {
		tone = terminal.Caution
	}
	var text strings.Builder
	if len(l.Items) > 0 {
		line := fmt.Sprintf("%s: %d encrypted, %d plaintext, %d refused", terminal.Plural(len(l.Items), "edge"), counts[Encrypted], counts[Plaintext], counts[Refused])
		text.WriteString("\n" + style.Paint(tone, line) + "\n")
	}
	if l.Forgotten > 0 {
		notes = append(notes, fmt.Sprintf("%d connections are not shown: gateways keep a limited number of edges", l.Forgotten))
	}
	if l.Unlisted > 0 {
		notes = append(notes, fmt.Sprintf("%d more open connections that no gateway carries are not shown", l.Unlisted))
	}
	for _, note := range notes {
		text.WriteString(style.Paint(terminal.Caution, "note:") + " " + terminal.Clean(note) + "\n")
	}
	hints := make(map[string]bool)
	for _, u := range l.Unasked {
		text.WriteString(fmt.Sprintf("pod/%s -n %s: %s %s\n", u.Pod, u.Namespace, style.Paint(terminal.Bad, "error:"), terminal.Clean(u.Error)))
		if u.Hint != "" && !hints[u.Hint] {
			hints[u.Hint] = true
			text.WriteString("hint: " + terminal.Clean(u.Hint) + "\n")
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}
