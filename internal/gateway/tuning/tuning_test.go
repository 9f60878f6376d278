//go:build linux

package tuning

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestApply applies one tuning after the other to one socket, and looks at what the kernel has.
func TestApply(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// As Go does with accepted sockets.
	for _, o := range []Option{KeepAlive, KeepIdle, KeepInterval} {
		if err := unix.SetsockoptInt(fd, numbers[o][0], numbers[o][1], 15); err != nil {
			t.Fatal(err)
		}
	}
	times := Times{7200, 75, 9}
	tune := func(change func(*Tuning)) *Tuning {
		var wanted Tuning
		change(&wanted)
		return &wanted
	}
	var was Tuning
	for _, step := range []struct {
		name string
		want *Tuning
		// has are KeepAlive, its three times, the user timeout, TOS and priority.
		has []int
	}{
		{"nothing", tune(func(*Tuning) {}), []int{1, 15, 15, 9, 0, 0, 0}},
		{"nothing, for long", tune((*Tuning).KeepIfSilent), []int{1, 7200, 75, 9, 0, 0, 0}},
		{"an interval without keepalive", tune(func(w *Tuning) { w.Set(KeepInterval, 3); w.KeepIfSilent() }), []int{1, 7200, 75, 9, 0, 0, 0}},
		{"keepalive and one of its times", tune(func(w *Tuning) { w.Set(KeepAlive, 1); w.Set(KeepIdle, 30); w.KeepIfSilent() }), []int{1, 30, 75, 9, 0, 0, 0}},
		{"the others", tune(func(w *Tuning) { w.Set(UserTimeout, 4000); w.Set(TOS, 0x28); w.Set(Priority, 5) }), []int{1, 30, 75, 9, 4000, 0x28, 5}},
	} {
		if err := step.want.Apply(fd, &was, times); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		was = *step.want
		var has []int
		for _, o := range []Option{KeepAlive, KeepIdle, KeepInterval, KeepCount, UserTimeout, TOS, Priority} {
			value, err := unix.GetsockoptInt(fd, numbers[o][0], numbers[o][1])
			if err != nil {
				t.Fatal(err)
			}
			has = append(has, value)
		}
		if diff := cmp.Diff(step.has, has); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

// TestKernelTimes: they are those that a new socket has.
func TestKernelTimes(t *testing.T) {
	times, err := KernelTimes()
	if err != nil {
		t.Fatal(err)
	}
	for i, value := range times {
		if value < 1 {
			t.Errorf("time %d is %d", i, value)
		}
	}
}
