package bundle

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// mask replaces addresses and the names of nodes by pseudonyms, the same one for the same address, so
// that a reader can follow it through the files. Loopback and unspecified addresses tell nothing and
// stay. A nil mask leaves everything.
type mask struct {
	addresses map[netip.Addr]string
	names     map[string]string
	// words matches all names, nil without any.
	words *regexp.Regexp
	four  int
	six   int
}

func newMask() *mask { return &mask{addresses: map[netip.Addr]string{}, names: map[string]string{}} }

// name has names of one kind masked from now on.
func (m *mask) name(kind string, names ...string) {
	if m == nil {
		return
	}
	for _, name := range names {
		// An address is masked as one.
		if _, err := netip.ParseAddr(name); err == nil || name == "" || m.names[name] != "" {
			continue
		}
		n := 1
		for _, known := range m.names {
			if strings.HasPrefix(known, kind+"-") {
				n++
			}
		}
		m.names[name] = fmt.Sprintf("%s-%d", kind, n)
	}
	if len(m.names) == 0 {
		return
	}
	// A name may begin another one: the longer one counts.
	all := slices.SortedFunc(maps.Keys(m.names), func(a, b string) int { return len(b) - len(a) })
	m.words = regexp.MustCompile(`\b(?:` + strings.Join(lists.Map(all, regexp.QuoteMeta), "|") + `)\b`)
}

func (m *mask) pseudonym(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	if ip.IsLoopback() || ip.IsUnspecified() {
		return ip.String()
	}
	if known, ok := m.addresses[ip]; ok {
		return known
	}
	if ip.Is4() {
		m.four++
		m.addresses[ip] = fmt.Sprintf("ipv4-%d", m.four)
	} else {
		m.six++
		m.addresses[ip] = fmt.Sprintf("ipv6-%d", m.six)
	}
	return m.addresses[ip]
}

// maxAddress is how long the text of an address is at most: an IPv6 address that ends like one of IPv4.
const maxAddress = 45

var (
	// candidates are stretches of the characters of addresses.
	candidates = regexp.MustCompile(`[0-9A-Fa-f:.]{2,}`)
	// dashed are IPv4 addresses in the names of hosts, like ip-10-0-0-1.
	dashed = regexp.MustCompile(`\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}`)
)

func (m *mask) apply(text []byte) []byte {
	if m == nil {
		return text
	}
	if m.words != nil {
		text = m.words.ReplaceAllFunc(text, func(name []byte) []byte { return []byte(m.names[string(name)]) })
	}
	text = candidates.ReplaceAllFunc(text, m.stretch)
	var out []byte
	done := 0
	for _, at := range dashed.FindAllIndex(text, -1) {
		from, to := at[0], at[1]
		ip, ok := address(bytes.ReplaceAll(text[from:to], []byte("-"), []byte(".")))
		if !ok || from > 0 && decimal(text[from-1]) || to < len(text) && decimal(text[to]) {
			continue
		}
		out = append(append(out, text[done:from]...), m.pseudonym(ip)...)
		done = to
	}
	return append(out, text[done:]...)
}

// stretch masks the addresses in a stretch, the longest ones first found.
func (m *mask) stretch(text []byte) []byte {
	if !bytes.ContainsAny(text, ".:") {
		return text
	}
	var out bytes.Buffer
	for len(text) > 0 {
		found := 0
		for end := min(len(text), maxAddress); end > 1; end-- {
			ip, ok := address(text[:end])
			if !ok || end < len(text) && digit(text[end]) && digit(text[end-1]) {
				continue
			}
			out.WriteString(m.pseudonym(ip))
			found = end
			break
		}
		if found == 0 {
			// The rest of a number is no address of its own.
			for found = 1; found < len(text) && digit(text[found]) && digit(text[found-1]); found++ {
			}
			out.Write(text[:found])
		}
		text = text[found:]
	}
	return out.Bytes()
}

func address(text []byte) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(string(text))
	return ip, err == nil
}

func digit(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F'
}

func decimal(b byte) bool { return '0' <= b && b <= '9' }
