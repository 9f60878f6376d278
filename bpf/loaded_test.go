//go:build linux

package bpf

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// packetSockets returns both ends of a packet socket.
func packetSockets(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	ends := must.Get(unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0))(t)
	open := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		c := must.Get(net.FileConn(f))(t).(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
		return c
	}
	return open(ends[0]), open(ends[1])
}

// identities returns the kernel's numbers of all that l has, by name.
func identities(t *testing.T, l *Loaded) map[string]uint32 {
	t.Helper()
	all := make(map[string]uint32)
	for name, o := range objectsIn(l.objects.objectsMaps, l.objects.objectsPrograms, l.inbound) {
		switch o := o.(type) {
		case *ebpf.Map:
			id, _ := must.Get(o.Info())(t).ID()
			all[name] = uint32(id)
		case *ebpf.Program:
			id, _ := must.Get(o.Info())(t).ID()
			all[name] = uint32(id)
		}
	}
	return all
}

// TestLoadedPasses: the other process has the same programs and maps, each under its name, also when the one that loaded them has ended.
func TestLoadedPasses(t *testing.T) {
	from, to := packetSockets(t)
	l := must.Get(Load(0))(t)
	want := identities(t, l)
	must.Do(t, SendLoaded(from, l, nil))
	must.Do(t, l.Close())
	from.Close()
	got := must.Get(ReceiveLoaded(to))(t)
	defer got.Close()
	if diff := cmp.Diff(want, identities(t, got)); diff != "" || len(want) == 0 {
		t.Errorf("(-sent +received):\n%s", diff)
	}
}

// TestLoadedErrors: why there are no programs reaches the other process with its hint, and what is missing for inbound connections alone
// does not stop it.
func TestLoadedErrors(t *testing.T) {
	from, to := packetSockets(t)
	failed := api.WithHint(errors.New("the kernel is too old"), "take another")
	must.Do(t, SendLoaded(from, nil, failed))
	if l, err := ReceiveLoaded(to); l != nil || err == nil || err.Error() != failed.Error() || api.Hint(err) != api.Hint(failed) {
		t.Errorf("received %v, %v (%s)", l, err, api.Hint(err))
	}
	l := must.Get(Load(0))(t)
	defer l.Close()
	without := *l
	without.inbound, without.inboundErr = inboundPrograms{}, failed
	must.Do(t, SendLoaded(from, &without, nil))
	got := must.Get(ReceiveLoaded(to))(t)
	if got.inboundErr == nil || got.inboundErr.Error() != failed.Error() || got.inbound != (inboundPrograms{}) || got.objects.KgwConfig == nil {
		t.Errorf("without the inbound programs there are %+v", got)
	}
	must.Do(t, got.Close())
	from.Close()
	if _, err := ReceiveLoaded(to); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestLongError: of an error that is longer than a message the other process gets the front, which has the cause, and the hint.
func TestLongError(t *testing.T) {
	from, to := packetSockets(t)
	for _, log := range []string{"x", "é", "<", "\n", "\xff"} {
		failed := api.WithHint(errors.New("permission denied: "+strings.Repeat(log, 1<<20)), "take another")
		must.Do(t, SendLoaded(from, nil, failed))
		if _, err := ReceiveLoaded(to); err == nil || !strings.HasPrefix(err.Error(), "permission denied:") || api.Hint(err) != "take another" {
			t.Errorf("%q: received %.100v (%s)", log, err, api.Hint(err))
		}
	}
}

// TestLoadedIsWhole: a message from which something is missing brings nothing, and leaves no descriptor behind.
func TestLoadedIsWhole(t *testing.T) {
	from, to := packetSockets(t)
	l := must.Get(Load(0))(t)
	defer l.Close()
	var m loadedMessage
	var maps, programs []int
	for name, o := range objectsIn(l.objects.objectsMaps) {
		m.Maps, maps = append(m.Maps, name), append(maps, o.FD())
	}
	for name, o := range objectsIn(l.objects.objectsPrograms, l.inbound) {
		m.Programs, programs = append(m.Programs, name), append(programs, o.FD())
	}
	all := slices.Concat(maps, programs)
	change := func(change func(*loadedMessage)) loadedMessage {
		c := loadedMessage{Maps: slices.Clone(m.Maps), Programs: slices.Clone(m.Programs)}
		change(&c)
		return c
	}
	last := len(m.Programs) - 1
	for name, c := range map[string]struct {
		message     any
		descriptors []int
	}{
		"no JSON":                 {"?", all},
		"a descriptor is missing": {m, all[1:]},
		"one too many":            {m, append(slices.Clone(all), maps[0])},
		"no descriptors":          {m, nil},
		"a map is missing":        {change(func(m *loadedMessage) { m.Maps = m.Maps[1:] }), all[1:]},
		"a program is missing":    {change(func(m *loadedMessage) { m.Programs = m.Programs[:last] }), all[:len(all)-1]},
		"another name":            {change(func(m *loadedMessage) { m.Maps[0] = "kgw_other" }), all},
	} {
		before := descriptors(t)
		must.Do(t, sendRaw(from, must.Get(json.Marshal(c.message))(t), c.descriptors))
		if got, err := ReceiveLoaded(to); err == nil {
			t.Errorf("%s: received", name)
			got.Close()
		}
		if after := descriptors(t); after > before {
			t.Errorf("%s: %d descriptors are open, and %d before", name, after, before)
		}
	}
}

func sendRaw(to *net.UnixConn, text []byte, descriptors []int) error {
	var rights []byte
	if len(descriptors) > 0 {
		rights = unix.UnixRights(descriptors...)
	}
	_, _, err := to.WriteMsgUnix(text, rights, nil)
	return err
}

func descriptors(t *testing.T) int {
	t.Helper()
	return len(must.Get(os.ReadDir("/proc/self/fd"))(t))
}
