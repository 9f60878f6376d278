package tail

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Text makes lines for people. It is safe for concurrent use.
type Text struct {
	Style *terminal.Style
	// Location is the time zone of the times.
	Location *time.Location
	// Namespaces shows the namespace before each pod.
	Namespaces bool
	// Width is what names are padded to, in columns; see NameWidth.
	Width int
}

// NameWidth returns the width of the longest name among sources.
func (t *Text) NameWidth(sources []Source) int {
	width := 0
	for _, s := range sources {
		width = max(width, lipgloss.Width(t.name(s)))
	}
	return width
}

// Format returns the line to print for a line of source's log, with its end, or nil if
// it is of no interest. The error is always nil. The result is one line of printable
// characters and of this program's own colours.
func (t *Text) Format(source Source, line []byte) ([]byte, error) {
	e := parse(line)
	if !e.shown() {
		return nil, nil
	}
	var parts []string
	switch {
	case e.connection != nil:
		parts = t.connection(source, e.connection)
	case e.message != nil:
		parts = t.message(source, e.message)
	default:
		parts = []string{t.paddedName(source), terminal.Clean(string(e.raw))}
	}
	return []byte(strings.Join(parts, "  ") + "\n"), nil
}

func (t *Text) connection(source Source, c *api.Connection) []string {
	arrow := "→ out"
	if c.Direction == api.Inbound {
		arrow = "← in "
	}
	parts := []string{t.clock(c.Time), t.paddedName(source), arrow,
		address(c.Source) + " → " + address(c.Destination), t.verdict(c)}
	if c.Peer != "" {
		parts = append(parts, terminal.Clean(c.Peer))
	}
	parts = append(parts,
		"sent "+terminal.Bytes(c.Sent)+" received "+terminal.Bytes(c.Received),
		t.Style.Paint(terminal.Dim, seconds(c.Duration)))
	if c.Error != "" {
		parts = append(parts, t.Style.Paint(terminal.Bad, "error: "+terminal.Clean(c.Error)))
	}
	return parts
}

// verdict says how the connection was carried, and why it was not encrypted.
func (t *Text) verdict(c *api.Connection) string {
	reason := ""
	if c.Reason != "" {
		reason = " (" + terminal.Clean(c.Reason) + ")"
	}
	switch {
	case refused(c):
		return t.Style.Paint(terminal.Bad, "refused") + reason
	case c.Encrypted:
		lock := ""
		if t.Style.Terminal() {
			lock = "🔒 "
		}
		return t.Style.Paint(terminal.Good, lock+"encrypted") + reason
	}
	return t.Style.Paint(terminal.Caution, "plaintext") + reason
}

// refused reports whether a connection was never carried. Gateways log those, and only
// those, as warnings. One that was refused inside TLS counts as encrypted, too.
func refused(c *api.Connection) bool {
	var level slog.Level
	return level.UnmarshalText([]byte(c.Level)) == nil && level >= slog.LevelWarn
}

func (t *Text) message(source Source, m *message) []string {
	tone := terminal.Caution
	if m.level >= slog.LevelError {
		tone = terminal.Bad
	}
	parts := []string{t.clock(m.time), t.paddedName(source),
		t.Style.Paint(tone, m.level.String()+": "+terminal.Clean(m.text))}
	for _, key := range slices.Sorted(maps.Keys(m.fields)) {
		parts = append(parts, terminal.Clean(key)+"="+value(m.fields[key]))
	}
	return parts
}

// value formats a value, strings without quotes unless they are ambiguous.
func value(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return terminal.Clean(string(raw))
	}
	if text == "" || strings.ContainsAny(text, " =\"") {
		return strconv.Quote(text)
	}
	return terminal.Clean(text)
}

func (t *Text) clock(at time.Time) string {
	return t.Style.Paint(terminal.Dim, at.In(t.Location).Format("15:04:05.000"))
}

func (t *Text) name(s Source) string {
	if t.Namespaces {
		return terminal.Clean(s.Namespace + "/" + s.Pod)
	}
	return terminal.Clean(s.Pod)
}

func (t *Text) paddedName(s Source) string {
	name := t.name(s)
	padding := strings.Repeat(" ", max(0, t.Width-lipgloss.Width(name)))
	return t.Style.PaintName(s.Namespace+"/"+s.Pod, name) + padding
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return terminal.Clean(a.String())
}

// seconds formats a duration with about three significant digits.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 0 || s > (1<<31):
		return "-"
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
