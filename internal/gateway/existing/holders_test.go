//go:build linux

package existing

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHolderInWords(t *testing.T) {
	local, remote := netip.MustParseAddrPort("10.0.0.1:18443"), netip.MustParseAddrPort("10.0.0.2:5432")
	for want, h := range map[string]Holder{
		"a listener at 10.0.0.1:18443":                                                   {Local: local, Listens: true},
		"a listener at 10.0.0.1:18443 of process 7 (nginx) in container web":             {Local: local, Listens: true, PID: 7, Process: "nginx", Container: "web"},
		"a connection from 10.0.0.1:18443 to 10.0.0.2:5432 in container web":             {Local: local, Remote: remote, Container: "web"},
		"a connection from 10.0.0.1:18443 to 10.0.0.2:5432, which has ended (TIME_WAIT)": {Local: local, Remote: remote, Ended: true},
	} {
		if got := h.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestContainerID(t *testing.T) {
	id := strings.Repeat("5a", 32)
	for name, want := range map[string]string{
		id: id, "crio-" + id: id, "crio-" + id + ".scope": id, "cri-containerd-" + id + ".scope": id, "docker-" + id + ".scope": id,
		"app": "app", "my-app.scope": "my-app.scope",
	} {
		if got := containerID(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
