package status

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// TableOptions say which columns a table has.
type TableOptions struct {
	// Namespace adds the column of namespaces.
	Namespace bool
	// Wide adds what is seldom of interest.
	Wide bool
	// Now is the present time, from which what is left of a certificate is told.
	Now time.Time
}

// Table writes l as a table.
func (l *List) Table(w io.Writer, style *terminal.Style, o TableOptions) error {
	table := terminal.Table{Header: []string{"POD", "NODE", "IP", "STATE", "MODE", "IDENTITY", "CERT-EXPIRY", "ENCRYPTED", "PLAINTEXT"}}
	if o.Namespace {
		table.Header = append([]string{"NAMESPACE"}, table.Header...)
	}
	if o.Wide {
		table.Header = append(table.Header, wideHeader()...)
	}
	for i := range l.Items {
		table.Rows = append(table.Rows, l.Items[i].row(o))
	}
	return table.Print(w, style)
}

// wideHeader names the columns of wide. IN-BAND are the encrypted connections
// that went in band, OPTION-LOST those that were to go in band and whose other end
// did not show a gateway: together, how connections to Services were carried.
// EXISTING are open connections of the application that no gateway carries. AUDITED are
// those that the rules would have refused without --audit.
func wideHeader() []string {
	return []string{
		"WIRE", "ALLOW", "DENY", "IN-BAND", "OPTION-LOST", "REFUSED", "NOT-ALLOWED", "AUDITED", "PLAINTEXT-REFUSED", "UDP", "EXISTING",
		"SERVICE-PASSED", "SERVICE-REFUSED", "SENT", "RECEIVED", "RESTARTS", "ON-FAILURE", "GATEWAY", "VERSION",
	}
}

// known is the number of wide columns before ON-FAILURE, which only a gateway
// that answers fills.
const known = 16

func (i *Item) row(o TableOptions) []terminal.Cell {
	var row []terminal.Cell
	add := func(tone terminal.Tone, text string) { row = append(row, terminal.Cell{Text: text, Tone: tone}) }
	if o.Namespace {
		add(terminal.Normal, i.Namespace)
	}
	add(i.podTone(), i.Pod)
	add(terminal.Normal, i.Node)
	add(terminal.Normal, i.ips(o.Wide))
	add(i.stateTone(), string(i.State))
	add(terminal.Normal, string(i.Mode))
	if i.Status == nil {
		// What only the gateway knows stays empty.
		for range 4 {
			add(terminal.Normal, "")
		}
		if o.Wide {
			for range known {
				add(terminal.Normal, "")
			}
			add(terminal.Normal, string(i.OnFailure))
			add(terminal.Normal, i.containerName())
			add(terminal.Normal, "")
		}
		return row
	}
	s := i.Status
	in, out := s.Traffic.Inbound, s.Traffic.Outbound
	add(terminal.Normal, s.Identity)
	add(i.expiry(o.Now))
	add(terminal.Normal, count(in.Encrypted+out.Encrypted))
	add(terminal.Normal, count(in.Plaintext+out.Plaintext))
	if o.Wide {
		add(terminal.Normal, string(s.Wire))
		add(terminal.Normal, patterns(s.Allow, "everyone"))
		add(terminal.Normal, patterns(s.Deny, "nobody"))
		add(terminal.Normal, count(in.Inband+out.Inband))
		add(terminal.Normal, count(out.OptionLost))
		add(terminal.Normal, count(in.Refused+out.Refused))
		add(terminal.Normal, count(in.NotAllowed+out.NotAllowed))
		add(audited(s))
		add(terminal.Normal, count(s.Capture.PlaintextRefused))
		add(terminal.Normal, count(s.Capture.UDP))
		add(existing(s.Existing))
		add(terminal.Normal, count(s.Capture.ServicePassed))
		add(terminal.Normal, count(s.Capture.ServiceRefused))
		add(terminal.Normal, terminal.Bytes(in.Sent+out.Sent))
		add(terminal.Normal, terminal.Bytes(in.Received+out.Received))
		restarts := terminal.Normal
		if s.Worker.Restarts > 0 {
			restarts = terminal.Caution
		}
		add(restarts, strconv.Itoa(s.Worker.Restarts))
		add(terminal.Normal, string(i.OnFailure))
		add(terminal.Normal, i.containerName())
		add(terminal.Normal, s.Version)
	}
	return row
}

// patterns shows identity rules in one cell.
func patterns(rules []string, none string) string {
	if len(rules) == 0 {
		return none
	}
	return strings.Join(rules, ",")
}

// audited shows how many connections the rules would have refused, if they only audit.
func audited(s *api.Status) (terminal.Tone, string) {
	if !s.Audit {
		return terminal.Normal, "off"
	}
	return terminal.Caution, count(s.Traffic.Inbound.Audited)
}

// existing shows how many open connections no gateway carries, if anybody has looked.
func existing(e *api.ExistingConnections) (terminal.Tone, string) {
	switch {
	case e == nil:
		return terminal.Normal, ""
	case e.Outbound+e.Inbound > 0:
		return terminal.Caution, strconv.Itoa(e.Outbound + e.Inbound)
	}
	return terminal.Normal, "0"
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

// ips returns the primary address, or all of them.
func (i *Item) ips(wide bool) string {
	var all []string
	for n, ip := range i.PodIPs {
		if n > 0 && !wide {
			break
		}
		all = append(all, ip.String())
	}
	return strings.Join(all, ",")
}

func (i *Item) containerName() string {
	if i.Container == nil {
		return ""
	}
	return i.Container.Name
}

func (i *Item) expiry(now time.Time) (terminal.Tone, string) {
	to := i.Status.Cert.NotAfter
	if to.IsZero() {
		return terminal.Normal, ""
	}
	tone := terminal.Normal
	for _, p := range i.Problems {
		if p.certificate {
			tone = p.tone()
		}
	}
	if left := to.Sub(now); left > 0 {
		return tone, duration.HumanDuration(left)
	}
	return tone, "expired"
}

// podTone marks the whole pod when something is critical, so that it is found
// in a long table.
func (i *Item) podTone() terminal.Tone {
	for _, p := range i.Problems {
		if p.Severity == Critical {
			return terminal.Bad
		}
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
	switch p.Severity {
	case Critical:
		return "error:"
	case Warning:
		return "warning:"
	}
	return "note:"
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
