//go:build linux

package supervisor

import (
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestPortLists(t *testing.T) {
	for text, want := range map[string]string{"": "", "\n": "", "8080\n": "8080", "1-3,5,65534-65535": "1-3,5,65534-65535", "5,4,4": "4-5", "0-9\n": "1-9"} {
		if ports, err := parsePorts(text); err != nil || ports.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, ports, err, want)
		}
	}
	for _, text := range []string{"x", "1-", "65536", "-1", "1, 2"} {
		if ports, err := parsePorts(text); err == nil {
			t.Errorf("%q is %v", text, ports)
		}
	}
	for _, c := range [][3]string{{"1-9", "4-5", "1-3,6-9"}, {"7", "7", ""}, {"1,3,65535", "2-65535", "1"}} {
		ports, others := must.Get(api.ParsePorts(c[0]))(t), must.Get(api.ParsePorts(c[1]))(t)
		if got := without(ports, others).String(); got != c[2] {
			t.Errorf("%s without %s is %q, want %q", c[0], c[1], got, c[2])
		}
	}
}
