package status

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/limits"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// TableOptions say which columns a table has.
type TableOptions struct {
	// Namespace adds the column of namespaces.
	Namespace bool
	// Wide adds what is seldom of interest.
	Wide bool
	// NoHeaders leaves out the names of the columns.
	NoHeaders bool
	// Now is the present time, from which what is left of a certificate is told.
	Now time.Time
}

// Table writes l as a table.
func (l *List) Table(w io.Writer, style *terminal.Style, o TableOptions) error {
	table := terminal.Table{NoHeader: o.NoHeaders, Header: []string{"POD", "NODE", "IP", "STATE", "MODE", "IDENTITY", "CERT-EXPIRY", "ENCRYPTED", "PLAINTEXT"}}
	if o.Namespace {
		table.Header = slices.Insert(table.Header, 0, "NAMESPACE")
	}
	if o.Wide {
		// IN-BAND are the encrypted connections that went in band, OPTION-LOST those
		// that were to go in band and whose other end did not show a gateway: together,
		// how connections to Services were carried. EXISTING are open connections of
		// the application that no gateway carries. PASS are destinations that are not
		// captured although they lie in a range, and EXCLUDED the connections to those and
		// to what is excluded. ENDPOINTS is how many addresses are captured besides ranges,
		// OUTSIDE are connections into private address space that no range names, AUDITED
		// those that the rules would have refused without --audit. MEMORY is what the gateway uses,
		// MEMORY-LEFT what is left of the pod's limit. DECLARED names settings by annotations and the objects that have them,
		// with ! for what is not in force.
		table.Header = append(table.Header,
			"WIRE", "ALLOW", "DENY", "PLAINTEXT-FROM", "PASS", "ENDPOINTS", "IN-BAND", "OPTION-LOST", "REFUSED", "NOT-ALLOWED", "AUDITED", "PLAINTEXT-REFUSED", "UDP",
			"EXCLUDED", "OUTSIDE", "EXISTING", "SERVICE-PASSED", "SERVICE-REFUSED", "SENT", "RECEIVED", "RESTARTS", "MEMORY", "MEMORY-LEFT", "LOG", "DECLARED", "ON-FAILURE", "GATEWAY", "VERSION")
	}
	table.Rows = lists.Map(l.Items, func(i Item) []terminal.Cell { return i.row(o) })
	return table.Print(w, style)
}

func (i *Item) row(o TableOptions) []terminal.Cell {
	s := cmp.Or(i.Status, &api.Status{})
	// What only the gateway knows stays empty if it did not answer.
	known := func(text string) terminal.Cell {
		if i.Status == nil {
			text = ""
		}
		return terminal.Cell{Text: text}
	}
	count := func(n uint64) terminal.Cell { return known(strconv.FormatUint(n, 10)) }
	marked := func(n int) terminal.Cell {
		cell := known(strconv.Itoa(n))
		if n > 0 {
			cell.Tone = terminal.Caution
		}
		return cell
	}
	in, out := s.Traffic.Inbound, s.Traffic.Outbound
	row := []terminal.Cell{
		{Text: i.Pod, Tone: i.podTone()}, {Text: i.Node}, {Text: i.ips(o.Wide)}, {Text: string(i.State), Tone: i.stateTone()},
		{Text: string(i.Mode)}, known(s.Identity), i.expiry(o.Now), count(in.Encrypted + out.Encrypted), count(in.Plaintext + out.Plaintext),
	}
	if o.Namespace {
		row = slices.Insert(row, 0, terminal.Cell{Text: i.Namespace})
	}
	if !o.Wide {
		return row
	}
	var existing, audited terminal.Cell // unless nobody has looked, or the rules bite
	if e := s.Existing; e != nil {
		existing = marked(max(0, e.Outbound+e.Inbound))
	}
	if s.Audit {
		audited = marked(int(in.Audited))
	}
	var used, left terminal.Cell // unless they are known, and there is a limit
	if m := s.Memory; m != nil {
		used.Text = terminal.Bytes(uint64(max(m.Used, 0)))
		if m.Limit > 0 {
			left.Text = terminal.Bytes(uint64(max(m.Left, 0)))
		}
		if limits.Tight(m) != "" {
			left.Tone = terminal.Caution
		}
	}
	name := ""
	if i.Container != nil {
		name = i.Container.Name
	}
	return append(row, known(string(s.Wire)), known(cmp.Or(strings.Join(s.Allow, ","), "everyone")), known(cmp.Or(strings.Join(s.Deny, ","), "nobody")),
		known(some(s.Capture.PlaintextFrom)), known(some(s.Capture.Pass)), known(strconv.Itoa(len(s.Capture.Endpoints))),
		count(in.Inband+out.Inband), count(out.OptionLost), count(in.Refused+out.Refused), count(in.NotAllowed+out.NotAllowed), audited,
		count(s.Capture.PlaintextRefused), count(s.Capture.UDP), count(s.Capture.Excluded), count(s.Capture.OutsideConnections), existing, count(s.Capture.ServicePassed), count(s.Capture.ServiceRefused),
		known(terminal.Bytes(in.Sent+out.Sent)), known(terminal.Bytes(in.Received+out.Received)), marked(s.Worker.Restarts), used, left, known(string(s.Log.Level)), i.declared(),
		terminal.Cell{Text: string(i.OnFailure)}, terminal.Cell{Text: name}, known(build(s)))
}

// build is the version of a gateway, with that of its FIPS 140-3 module if it is in that mode.
func build(s *api.Status) string {
	if s.FIPS140 == "" {
		return s.Version
	}
	return s.Version + ",fips140=" + s.FIPS140
}

// shown is how many of a list a cell shows.
const shown = 4

// some shows the first of a list, and how many more there are: -o json has them all.
func some[T fmt.Stringer](list []T) string {
	words := lists.Texts(list[:min(len(list), shown)])
	if more := len(list) - shown; more > 0 {
		words = append(words, fmt.Sprintf("+%d", more))
	}
	return strings.Join(words, ";")
}

// ips returns the primary address, or all of them.
func (i *Item) ips(wide bool) string {
	all := lists.Texts(i.PodIPs)
	if !wide {
		all = all[:min(1, len(all))]
	}
	return strings.Join(all, ",")
}

func (i *Item) expiry(now time.Time) terminal.Cell {
	if i.Status == nil || i.Status.Cert.NotAfter.IsZero() {
		return terminal.Cell{}
	}
	cell := terminal.Cell{Text: "expired"}
	if left := i.Status.Cert.NotAfter.Sub(now); left > 0 {
		cell.Text = duration.HumanDuration(left)
	}
	for _, p := range i.Problems {
		if p.certificate {
			cell.Tone = p.tone()
		}
	}
	return cell
}

// podTone marks the whole pod when something is critical, so that it is found
// in a long table.
func (i *Item) podTone() terminal.Tone {
	if slices.ContainsFunc(i.Problems, func(p Problem) bool { return p.Severity == Critical }) {
		return terminal.Bad
	}
	return terminal.Normal
}

func (i *Item) stateTone() terminal.Tone {
	switch i.State {
	case Ready:
		return terminal.Good
	case Starting, Uncertified, Draining:
		return terminal.Caution
	case Waiting:
		if len(i.Problems) == 0 {
			return terminal.Caution
		}
		return terminal.Bad
	case NotEnabled, Disabled:
		return terminal.Dim
	}
	return terminal.Bad
}

func (p *Problem) tone() terminal.Tone {
	switch p.Severity {
	case Critical:
		return terminal.Bad
	case Note:
		return terminal.Normal
	}
	return terminal.Caution
}

// word is what a line about p begins with after the pod.
func (p *Problem) word() string {
	if p.Severity == Critical {
		return "error:"
	}
	return string(p.Severity) + ":"
}

// Failures writes what Advice does of the gateways that could not be asked alone.
func (l *List) Failures(w io.Writer, style *terminal.Style) error {
	var failed List
	for _, i := range l.Items {
		if i.State != NotAnswering {
			continue
		}
		i.Problems = slices.DeleteFunc(slices.Clone(i.Problems), func(p Problem) bool { return p.Severity != Critical })
		failed.Items = append(failed.Items, i)
	}
	_, err := io.WriteString(w, failed.advice(style))
	return err
}

// Advice writes one line for every problem in l, with what to do about it
// below, and an empty line above. It writes nothing if there is none.
func (l *List) Advice(w io.Writer, style *terminal.Style) error {
	text := l.advice(style)
	if text == "" {
		return nil
	}
	_, err := io.WriteString(w, "\n"+text)
	return err
}

func (l *List) advice(style *terminal.Style) string {
	var text strings.Builder
	for i := range l.Items {
		item := &l.Items[i]
		for _, p := range item.Problems {
			text.WriteString(terminal.Clean("pod/"+item.Pod+" -n "+item.Namespace+": ") + style.Paint(p.tone(), p.word()) + " " + terminal.Clean(p.Text) + "\n")
			if p.Hint != "" {
				text.WriteString("hint: " + terminal.Clean(p.Hint) + "\n")
			}
		}
	}
	return text.String()
}
