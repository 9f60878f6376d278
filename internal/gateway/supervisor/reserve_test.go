//go:build linux

package supervisor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPortLists(t *testing.T) {
	for text, want := range map[string]struct {
		ports []uint16
		text  string
	}{
		"":                  {nil, ""},
		"\n":                {nil, ""},
		"8080\n":            {[]uint16{8080}, "8080"},
		"1-3,5,65534-65535": {[]uint16{1, 2, 3, 5, 65534, 65535}, "1-3,5,65534-65535"},
		"5,4,4":             {[]uint16{5, 4, 4}, "4-5"},
	} {
		ports, err := parsePorts(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want.ports, ports); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
		if got := portList(ports); got != want.text {
			t.Errorf("%q becomes %q, want %q", text, got, want.text)
		}
	}
	for _, text := range []string{"x", "1-", "65536", "-1", "1, 2"} {
		if ports, err := parsePorts(text); err == nil {
			t.Errorf("%q is %v", text, ports)
		}
	}
}
