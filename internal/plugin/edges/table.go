package edges

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// TableOptions say what a table shows.
type TableOptions struct {
	// Home is the namespace whose name goes without saying; empty: none.
	Home string
	// Wide adds what is seldom of interest.
	Wide bool
	// Now is the present time, from which the age of an edge is told; zero leaves
	// ages out.
	Now time.Time
}

// Table writes l as a table.
func (l *List) Table(w io.Writer, style *terminal.Style, o TableOptions) error {
	table := terminal.Table{Header: []string{"SOURCE", "DESTINATION", "SECURED", "WIRE", "CONNECTIONS", "OPEN", "SENT", "RECEIVED", "LAST-SEEN"}}
	if o.Wide {
		table.Header = append(table.Header, "BACKENDS", "SOURCE-IP", "DESTINATION-IP", "SOURCE-IDENTITY", "DESTINATION-IDENTITY", "SEEN-BY")
	}
	for i := range l.Items {
		table.Rows = append(table.Rows, l.Items[i].row(o))
	}
	return table.Print(w, style)
}

func (e *Edge) row(o TableOptions) []terminal.Cell {
	var row []terminal.Cell
	add := func(tone terminal.Tone, text string) { row = append(row, terminal.Cell{Text: text, Tone: tone}) }
	add(terminal.Normal, e.Source.Text(o.Home))
	add(terminal.Normal, e.target(o.Home))
	add(e.tone(), e.secured())
	add(terminal.Normal, e.Wire)
	add(terminal.Normal, strconv.FormatUint(e.Connections, 10))
	add(terminal.Normal, strconv.FormatUint(e.Open, 10))
	sent, received := terminal.Bytes(e.Sent), terminal.Bytes(e.Received)
	if e.Existing {
		sent, received = "", ""
	}
	add(terminal.Normal, sent)
	add(terminal.Normal, received)
	add(terminal.Normal, e.age(o.Now))
	if o.Wide {
		var backends []string
		for i := range e.Backends {
			backends = append(backends, e.Backends[i].Text(o.Home))
		}
		add(terminal.Normal, strings.Join(backends, ","))
		add(terminal.Normal, e.Source.Address.String())
		add(terminal.Normal, e.Destination.Address.String())
		add(terminal.Normal, e.SourceIdentity)
		add(terminal.Normal, e.DestinationIdentity)
		add(terminal.Normal, strings.Join(e.SeenBy, ","))
	}
	return row
}

// target is the destination with its port.
func (e *Edge) target(home string) string {
	text := e.Destination.Text(home)
	if e.Destination.Kind == "" && e.Destination.Address.Is6() {
		text = "[" + text + "]"
	}
	return text + ":" + strconv.Itoa(int(e.Port))
}

// secured answers whether the edge is encrypted, and if not, why.
func (e *Edge) secured() string {
	switch e.Verdict {
	case Encrypted:
		return "√"
	case Refused:
		return "× refused: " + e.Reason
	}
	return "× " + e.Reason
}

func (e *Edge) tone() terminal.Tone {
	switch e.Verdict {
	case Encrypted:
		return terminal.Good
	case Refused:
		return terminal.Caution
	}
	return terminal.Bad
}

func (e *Edge) age(now time.Time) string {
	switch {
	case now.IsZero():
		return ""
	case e.Open > 0:
		return "now"
	}
	return duration.HumanDuration(max(0, now.Sub(e.LastSeen)))
}

func plural(edges int) string {
	if edges == 1 {
		return "edge"
	}
	return "edges"
}

// Summary says in a line how many edges there are of which kind, and what is missing
// in lines below.
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
		line := fmt.Sprintf("%d %s: %d encrypted, %d plaintext, %d refused", len(l.Items), plural(len(l.Items)), counts[Encrypted], counts[Plaintext], counts[Refused])
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
