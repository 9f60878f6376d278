//go:build linux

package proxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestTuningOfACarrier: the options of an application are on the wire while its connection lasts, and not
// for the next one. A carrier whose options cannot be taken back carries no other connection.
func TestTuningOfACarrier(t *testing.T) {
	client, server := pair(t, nil)
	sockets := client.proxy.options.Sockets.(*testSockets)
	destination := application(t, server.ip, echo)
	// options returns what the one idle carrier has: keepalive, its first time and TOS.
	options := func() (has []int) {
		t.Helper()
		client.count(func(p *pool) int {
			for k := range p.all {
				must.Do(t, onSocket(k.conn, func(fd int) error {
					for _, o := range [][2]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.IPPROTO_IP, unix.IP_TOS}} {
						value, err := unix.GetsockoptInt(fd, o[0], o[1])
						if err != nil {
							return err
						}
						has = append(has, value)
					}
					return nil
				}))
			}
			return 0
		})
		return has
	}
	visit := func(change func(*tuning.Tuning)) {
		t.Helper()
		var wanted tuning.Tuning
		change(&wanted)
		sockets.tuning.Store(&wanted)
		visitAndWait(t, client, server, destination)
	}
	for _, step := range []struct {
		name   string
		change func(*tuning.Tuning)
		has    []int
	}{
		{"keepalive and TOS", func(w *tuning.Tuning) {
			w.Set(tuning.KeepAlive, 1)
			w.Set(tuning.KeepIdle, 30)
			w.Set(tuning.TOS, 0x28)
		}, []int{1, 30, 0x28}},
		{"keepalive alone", func(w *tuning.Tuning) { w.Set(tuning.KeepAlive, 1); w.Set(tuning.KeepIdle, 40) }, []int{1, 40, 0}},
		{"nothing", func(*tuning.Tuning) {}, []int{0, 40, 0}},
	} {
		visit(step.change)
		if diff := cmp.Diff(step.has, options()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
	if n := client.proxy.Traffic().Outbound.Reused; n != 2 {
		t.Errorf("%d connections were carried by the carrier of the first, want 2", n)
	}
	visit(func(w *tuning.Tuning) { w.Congestion = "reno" })
	eventually(t, "the end of the carrier", func() bool { return client.idle() == 0 && server.waits() == 0 })
}
