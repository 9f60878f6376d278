//go:build linux

package main

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestFIPS: a gateway in FIPS 140-3 mode and one that is not carry each other's connections, and each says
// which of them it is. The mode holds for the worker, whose environment is empty otherwise.
func TestFIPS(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	spec.FIPS = true
	ga, gb := l.gateway(spec), l.gateway(l.spec(l.b))
	a, b := status(t, ga), status(t, gb)
	if a.FIPS140 == "" || b.FIPS140 != "" {
		t.Errorf("the module is said to be %q, and without the mode %q", a.FIPS140, b.FIPS140)
	}
	for pid, want := range map[int][]string{a.Worker.PID: {"GODEBUG=fips140=on"}, b.Worker.PID: nil} {
		environ := strings.FieldsFunc(string(must.Get(os.ReadFile("/proc/"+strconv.Itoa(pid)+"/environ"))(t)), func(r rune) bool { return r == 0 })
		if !slices.Equal(environ, want) {
			t.Errorf("the environment of worker %d is %q, want %q", pid, environ, want)
		}
	}
	if c := a.Worker.Confinement; !c.Seccomp {
		t.Errorf("the worker in FIPS 140-3 mode is confined by %+v", c)
	}
	for _, c := range []struct {
		name string
		from func() result
	}{
		{"from the gateway in the mode", func() result { return l.client(l.a, l.a.AppCgroup, "talk", l.b.Addr(portEcho), "hello") }},
		{"to it", func() result { return l.client(l.b, l.b.AppCgroup, "talk", l.a.Addr(portEcho), "hello") }},
	} {
		r := c.from()
		if r.Error != "" || r.Received != "hello\n" {
			t.Errorf("%s: %+v", c.name, r)
			continue
		}
		line := connection(t, ga, c.name, func(o *api.Connection) bool { return o.Source.String() == r.Local })
		if !line.Encrypted || !strings.Contains(line.TLS.Cipher, "_AES_") || line.TLS.KeyExchange != "X25519MLKEM768" {
			t.Errorf("%s: %+v", c.name, line)
		}
	}
}
