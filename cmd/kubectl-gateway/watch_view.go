package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

const (
	// viewInterval is the time between two frames.
	viewInterval = 250 * time.Millisecond
	// viewEvents bounds the lines of events.
	viewEvents = 10
)

// watchView draws the state of a watch repeatedly in the same place.
type watchView struct {
	style *terminal.Style
	title string
	live  *terminal.Live

	mu sync.Mutex
	// events are painted.
	events []string
}

// add shows one more line, and drops the oldest if there are too many.
func (v *watchView) add(tone terminal.Tone, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events = append(v.events, v.style.Paint(tone, text))
	if len(v.events) > viewEvents {
		v.events = slices.Clone(v.events[len(v.events)-viewEvents:])
	}
}

// run draws until done is closed, or write returns false.
func (v *watchView) run(counts func() watch.Counts, done <-chan struct{}, write func(string) bool) {
	ticker := time.NewTicker(viewInterval)
	defer ticker.Stop()
	defer func() { write(v.live.End()) }()
	for write(v.draw(counts(), time.Now())) {
		select {
		case <-ticker.C:
		case <-done:
			write(v.draw(counts(), time.Now()))
			return
		}
	}
}

// draw returns the difference between the last frame and the present one, "" if there is
// none.
func (v *watchView) draw(counts watch.Counts, now time.Time) string {
	return v.live.Draw(v.frame(counts, now, v.live.Rows()))
}

// frame returns the lines of a view, of which the newest events fit into rows.
func (v *watchView) frame(counts watch.Counts, now time.Time, rows int) []string {
	tone := terminal.Good
	switch {
	case counts.Failed > 0:
		tone = terminal.Bad
	case counts.Working > 0:
		tone = terminal.Caution
	}
	renewal := "unknown"
	if !counts.NextRenewal.IsZero() {
		renewal = "in " + duration.HumanDuration(max(counts.NextRenewal.Sub(now), 0))
	}
	lines := []string{
		v.style.Paint(terminal.Strong, v.title),
		v.style.Paint(tone, fmt.Sprintf("%d watched, %d ready, %d in work, %d failed", counts.Watched, counts.Ready, counts.Working, counts.Failed)),
		"next renewal " + renewal,
	}
	if counts.Outdated > 0 {
		tone := terminal.Normal
		if counts.Halted != nil {
			tone = terminal.Bad
		}
		lines = append(lines, v.style.Paint(tone, outdated(counts)))
	}
	if !counts.Connected {
		lines = append(lines, v.style.Paint(terminal.Bad, "the API server does not answer"))
	}
	lines = append(lines, "")
	v.mu.Lock()
	defer v.mu.Unlock()
	events := v.events
	if room := max(rows-len(lines), 0); len(events) > room {
		events = events[len(events)-room:]
	}
	return append(lines, events...)
}
