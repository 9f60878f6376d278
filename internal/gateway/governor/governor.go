//go:build linux

// Package governor fits the Go scheduler to the traffic of a worker.
package governor

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// lookInterval is how much CPU time the process uses between two looks at
	// how busy it is, and lookWindow how much time a look covers at least.
	lookInterval = 25 * time.Millisecond
	lookWindow   = 50 * time.Millisecond
	// quietAfter is for how long the process must have used less than
	// lookInterval until it is quiet, which is told at most once in
	// quietInterval.
	quietAfter    = 500 * time.Millisecond
	quietInterval = 10 * time.Second
)

// Run fits the Go scheduler to the traffic until ctx is done, or returns an
// error and changes nothing. The number of processors (GOMAXPROCS) starts at one
// and follows the CPU time that the process uses, up to what it was before: one
// processor carries a few connections faster and with a fifth less CPU time than
// several, which mostly wake each other.
//
// The clock is a timer that counts the CPU time of the process (SIGVTALRM), so
// that an idle process is never woken. Run calls busy by the same clock, every lookWindow
// at most, and quiet once there has been no traffic for half a second, every ten seconds at most.
func Run(ctx context.Context, busy, quiet func()) error { return run(ctx, fitProcessors, busy, quiet) }

func run(ctx context.Context, fit func(current, ceiling int, used, elapsed time.Duration) int, busy, quiet func()) error {
	ticks := make(chan os.Signal, 1)
	signal.Notify(ticks, unix.SIGVTALRM)
	defer signal.Stop(ticks)
	stop, err := startCPUTimer(lookInterval, unix.SIGVTALRM)
	if err != nil {
		return err
	}
	defer stop()

	ceiling := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(ceiling)
	rest := time.NewTimer(quietAfter)
	defer rest.Stop()
	rest.Stop()
	processors, since, used, told := 1, time.Now(), cpuTime(), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
			quiet()
			told = time.Now()
			continue
		case <-ticks:
		}
		now := time.Now()
		rest.Reset(max(quietAfter, quietInterval-now.Sub(told)))
		elapsed := now.Sub(since)
		if elapsed < lookWindow {
			continue
		}
		total := cpuTime()
		if n := fit(processors, ceiling, total-used, elapsed); n != processors {
			processors = n
			runtime.GOMAXPROCS(n)
		}
		since, used = now, total
		busy()
	}
}

// fitProcessors returns how many processors to go on with after current of them
// have used that much CPU time in elapsed: more from a half of what they could
// use, because on a busy machine a process does not get all that it could use,
// and fewer only where the load would not soon ask for more again. What the
// kernel does for a process without a processor counts as well.
func fitProcessors(current, ceiling int, used, elapsed time.Duration) int {
	half := (current + 1) / 2
	switch {
	case used*2 > elapsed*time.Duration(current):
		return min(2*current, ceiling)
	case used*3 < elapsed*time.Duration(half) && half < current:
		return half
	}
	return current
}

// cpuTime returns the CPU time that the process has used.
func cpuTime() time.Duration {
	var t unix.Timespec
	// The clock exists on every Linux.
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// sigevent is struct sigevent of the kernel (include/uapi/asm-generic/siginfo.h),
// without the parts that SIGEV_SIGNAL does not use.
type sigevent struct {
	value  uintptr
	signo  int32
	notify int32
	_      [64 - unsafe.Sizeof(uintptr(0)) - 8]byte
}

// startCPUTimer sends s to the process each time that it has used interval of
// CPU time, until stop is called.
func startCPUTimer(interval time.Duration, s syscall.Signal) (stop func(), err error) {
	// SIGEV_SIGNAL is 0.
	event := sigevent{signo: int32(s)}
	var id int32
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_PROCESS_CPUTIME_ID,
		uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id))); errno != 0 {
		return nil, fmt.Errorf("making a timer of CPU time: %w", errno)
	}
	stop = func() { _, _, _ = unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(id), 0, 0) }
	every := unix.NsecToTimespec(interval.Nanoseconds())
	setting := struct{ interval, value unix.Timespec }{every, every}
	if _, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0,
		uintptr(unsafe.Pointer(&setting)), 0, 0, 0); errno != 0 {
		stop()
		return nil, fmt.Errorf("starting a timer of CPU time: %w", errno)
	}
	return stop, nil
}
