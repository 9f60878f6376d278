package api

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Ports is a set of ports: ranges in order that neither overlap nor touch. The empty set
// stands for every port.
type Ports []PortRange

// PortRange holds the ports from First to Last, both included.
type PortRange struct{ First, Last uint16 }

// NewPorts returns the set of the ports in ranges.
func NewPorts(ranges ...PortRange) Ports {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	var set Ports
	for _, r := range ranges {
		if n := len(set); n > 0 && uint32(r.First) <= uint32(set[n-1].Last)+1 {
			set[n-1].Last = max(set[n-1].Last, r.Last)
		} else {
			set = append(set, r)
		}
	}
	return set
}

// ParsePorts reads ports and ranges of ports with commas between them, like
// 8080,9000-9010.
func ParsePorts(text string) (Ports, error) {
	var ranges []PortRange
	for word := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(word, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if cmp.Or(err, err2) != nil || from == 0 || from > to {
			return nil, WithHint(fmt.Errorf("%.40q is neither a port nor a range of ports", word), "write ports like 8080,9000-9010")
		}
		ranges = append(ranges, PortRange{uint16(from), uint16(to)})
	}
	return NewPorts(ranges...), nil
}

// Contains reports whether port is in the set.
func (p Ports) Contains(port uint16) bool {
	return len(p) == 0 || slices.ContainsFunc(p, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// String returns the text that ParsePorts reads, empty for every port.
func (p Ports) String() string {
	var words []string
	for _, r := range p {
		word := strconv.Itoa(int(r.First))
		if r.Last != r.First {
			word += "-" + strconv.Itoa(int(r.Last))
		}
		words = append(words, word)
	}
	return strings.Join(words, ",")
}

// MarshalText is String for JSON.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePorts for JSON.
func (p *Ports) UnmarshalText(text []byte) (err error) {
	if *p = nil; len(text) > 0 {
		*p, err = ParsePorts(string(text))
	}
	return err
}
