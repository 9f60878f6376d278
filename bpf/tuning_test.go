//go:build linux

package bpf_test

import (
	"encoding/binary"
	"net/netip"
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

// tuningOf is nil where nothing was tuned. named says that getpeername(2) was enough.
func tuningOf(fd int) (all *tuned, named bool, err error) {
	t, err := bpf.TuningOf(fd)
	if err == nil {
		named, err = bpf.TuningIsNamed(fd)
	}
	if err != nil || t == (tuning.Tuning{}) {
		return nil, named, err
	}
	all = &tuned{Values: make(map[tuning.Option]int32), Congestion: t.Congestion}
	for o := tuning.KeepAlive; o <= tuning.Priority; o++ {
		if value, ok := t.Get(o); ok {
			all.Values[o] = value
		}
	}
	return all, named, nil
}

// number is an option's value.
func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// TestTuning: the gateway learns which options the application has set, in every form that the kernel
// takes. Options that stay in the pod are none of its business.
func TestTuning(t *testing.T) {
	s := setUp(t, nil)
	for name, c := range map[string]struct {
		options []socketOption
		refused bool // by the kernel
		want    *tuned
		named   bool // getpeername(2) is enough
	}{
		"nothing": {named: true},
		"options that stay in the pod": {options: []socketOption{
			{unix.SOL_SOCKET, unix.SO_RCVBUF, number(8192)}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, number(1)},
		}, named: true},
		"keepalive": {
			options: []socketOption{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, number(1)}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, number(15)},
				{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, number(16)}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, number(9)},
			},
			want: &tuned{map[tuning.Option]int32{
				tuning.KeepAlive: 1, tuning.KeepIdle: 15, tuning.KeepInterval: 16, tuning.KeepCount: 9,
			}, ""},
			named: true,
		},
		"no keepalive": {
			options: []socketOption{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, number(0)}},
			want:    &tuned{map[tuning.Option]int32{tuning.KeepAlive: 0}, ""},
			named:   true,
		},
		"the most that the kernel takes": {
			options: []socketOption{
				{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, number(32767)}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, number(32767)},
				{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, number(127)},
			},
			want: &tuned{map[tuning.Option]int32{
				tuning.KeepIdle: 32767, tuning.KeepInterval: 32767, tuning.KeepCount: 127,
			}, ""},
			named: true,
		},
		"keepalive that is more than 1": {
			options: []socketOption{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, number(3)}},
			want:    &tuned{map[tuning.Option]int32{tuning.KeepAlive: 3}, ""},
		},
		"more idle seconds than the kernel takes": {
			options: []socketOption{{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, number(1 << 16)}}, refused: true,
			want: &tuned{map[tuning.Option]int32{tuning.KeepIdle: 1 << 16}, ""},
		},
		"a longer interval than the kernel takes": {
			options: []socketOption{{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, number(1 << 15)}}, refused: true,
			want: &tuned{map[tuning.Option]int32{tuning.KeepInterval: 1 << 15}, ""},
		},
		"more probes than the kernel takes": {
			options: []socketOption{{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, number(1 << 7)}}, refused: true,
			want: &tuned{map[tuning.Option]int32{tuning.KeepCount: 1 << 7}, ""},
		},
		"priority": {
			options: []socketOption{{unix.SOL_SOCKET, unix.SO_PRIORITY, number(5)}},
			want:    &tuned{map[tuning.Option]int32{tuning.Priority: 5}, ""},
		},
		"congestion control": {
			options: []socketOption{{unix.IPPROTO_TCP, unix.TCP_CONGESTION, []byte("reno")}},
			want:    &tuned{map[tuning.Option]int32{}, "reno"},
		},
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
		for family, d := range map[string]dial{
			"IPv4": {To: at(s.there.IP4, 80)}, "IPv6": {To: at(s.there.IP6, 80), Six: true}, "v4-mapped": {To: at(s.there.IP4, 80), Six: true},
		} {
			d.Options, d.Refused = c.options, c.refused
			r := s.app.dial(d)
			if r.Seen == nil || r.Seen.Error != "" {
				t.Errorf("%s, %s: %+v, %+v", name, family, r, r.Seen)
				continue
			}
			if diff := cmp.Diff(c.want, r.Seen.Tuned); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, family, diff)
			}
			if r.Seen.Named != c.named {
				t.Errorf("%s, %s: it is enough to call getpeername(2): %v, want %v", name, family, r.Seen.Named, c.named)
			}
		}
	}
}

// TestTuningOfReuse: a socket that leads to one application after another says of each what that has set, and nothing before
// that can be known.
func TestTuningOfReuse(t *testing.T) {
	s := setUp(t, nil)
	count := func(n uint32) []socketOption { return []socketOption{{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, number(n)}} }
	s.app.do(request{Serve: &serve{Network: "tcp", Address: ":8080", Options: count(3)}})
	s.app.do(request{Serve: &serve{Network: "tcp", Address: ":8081", Options: count(4)}})
	for name, d := range map[string]reuse{
		"IPv4": {First: at(s.here.IP4, 8080), Second: at(s.here.IP4, 8081), PresentAs: netip.MustParseAddrPort("10.1.2.3:4567")},
		"IPv6": {First: at(s.here.IP6, 8080), Second: at(s.here.IP6, 8081), PresentAs: netip.MustParseAddrPort("[fd00:1::3]:4567")},
	} {
		r := s.gateway.do(request{Reuse: &d})
		want := []tuned{{Values: map[tuning.Option]int32{tuning.KeepCount: 3}}, {Values: map[tuning.Option]int32{tuning.KeepCount: 4}}}
		if diff := cmp.Diff(want, r.Tunings); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if r.Peer != d.Second {
			t.Errorf("%s: before the question getpeername says %v, want %v", name, r.Peer, d.Second)
		}
		if !r.Named {
			t.Errorf("%s: after it, too", name)
		}
	}
}
