//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// progress prints what a long verb is doing, with the time since its start.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, start: time.Now()}
}

// say prints one line.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "[%6s] %s\n", clock(time.Since(p.start)), fmt.Sprintf(format, args...))
}

// step announces a step; the returned function tells that it is over.
func (p *progress) step(what string) (done func()) {
	start := time.Now()
	p.say("%s", what)
	return func() {
		if took := time.Since(start); took > time.Second {
			p.say("  took %s", clock(took))
		}
	}
}

// heartbeat prints what detail returns every interval until the context ends.
func (p *progress) heartbeat(ctx context.Context, interval time.Duration, detail func() string) {
	for pause(ctx, interval) == nil {
		p.say("  … %s", detail())
	}
}

// clock formats a duration for people, to the second.
func clock(d time.Duration) string {
	d = d.Round(time.Second)
	if d < time.Minute {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
}
