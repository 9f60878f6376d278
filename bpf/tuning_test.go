//go:build linux

package bpf_test

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// socketOption is an option as setsockopt(2) takes it.
type socketOption struct {
	Level, Name int
	Value       []byte
}

// tuned is a tuning.Tuning.
type tuned struct {
	Values     map[tuning.Option]int32
	Congestion string `json:",omitempty"`
}

// tuningOf is nil where nothing was tuned.
func tuningOf(fd int) (*tuned, error) {
	t, err := bpf.TuningOf(fd)
	if err != nil || t == (tuning.Tuning{}) {
		return nil, err
	}
	all := &tuned{Values: make(map[tuning.Option]int32), Congestion: t.Congestion}
	for o := tuning.KeepAlive; o <= tuning.Priority; o++ {
		if value, ok := t.Get(o); ok {
			all.Values[o] = value
		}
	}
	return all, nil
}

// TestTuning: the gateway learns which options the application has set, in every form that the kernel
// takes. Options that stay in the pod are none of its business.
func TestTuning(t *testing.T) {
	s := setUp(t, nil)
	number := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	for name, c := range map[string]struct {
		options []socketOption
		want    *tuned
	}{
		"nothing": {},
		"options that stay in the pod": {options: []socketOption{
			{unix.SOL_SOCKET, unix.SO_RCVBUF, number(8192)}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, number(1)},
		}},
		"all": {
			options: []socketOption{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, number(1)}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, number(11)},
				{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, number(12)}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, number(13)},
				{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, number(70000)}, {unix.IPPROTO_IP, unix.IP_TOS, number(0x28)},
				{unix.SOL_SOCKET, unix.SO_PRIORITY, number(5)}, {unix.IPPROTO_TCP, unix.TCP_CONGESTION, []byte("reno")},
			},
			want: &tuned{map[tuning.Option]int32{
				tuning.KeepAlive: 1, tuning.KeepIdle: 11, tuning.KeepInterval: 12, tuning.KeepCount: 13,
				tuning.UserTimeout: 70000, tuning.TOS: 0x28, tuning.Priority: 5,
			}, "reno"},
		},
		"the last one counts, a byte is enough, and TOS sets the priority": {
			options: []socketOption{
				{unix.SOL_SOCKET, unix.SO_PRIORITY, number(5)}, {unix.IPPROTO_IP, unix.IP_TOS, number(0x28)}, {unix.IPPROTO_IP, unix.IP_TOS, []byte{0x30}},
			},
			want: &tuned{map[tuning.Option]int32{tuning.TOS: 0x30}, ""},
		},
	} {
		r := s.app.dial(dial{To: at(s.there.IP4, 80), Options: c.options})
		if r.Seen == nil || r.Seen.Error != "" {
			t.Errorf("%s: %+v, %+v", name, r, r.Seen)
			continue
		}
		if diff := cmp.Diff(c.want, r.Seen.Tuned); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
