//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// renewals are measured until each gateway has had as many.
	renewals = 2
	// interval is what they are counted by.
	interval = 10 * time.Second
)

// renewals measures how watch spreads renewals: of all gateways, whose first certificates were issued together,
// and of the same ones again.
func (m *meter) renewals(ctx context.Context) error {
	const namespace = "by-life"
	if err := m.fill(ctx, namespace, "true"); err != nil {
		return err
	}
	w, life := m.startable(ctx, namespace, "--cert-ttl", m.plan.Life.String()), m.plan.Life
	until := func(round int, patience time.Duration) error {
		return w.until(ctx, patience, func() int {
			rounds := m.nodes.gateways.times()
			if len(rounds) <= round {
				return 0
			}
			return len(rounds[round])
		})
	}
	if err := w.start(); err != nil {
		return err
	}
	if err := until(0, patience); err != nil {
		return err
	}
	fmt.Fprintf(m.progress, "all gateways have a certificate; %d renewals of each follow\n", renewals)
	// The API server is never idle: renewals go on.
	c, err := m.between(ctx, w.cmd, func() error { return until(renewals, renewals*life+patience) }, func(context.Context) error { return nil })
	if err != nil {
		return err
	}
	rounds := m.nodes.gateways.times()
	m.print(fmt.Sprintf("certificates of %s until the last has had %d renewals", life, renewals), c)
	for i, times := range rounds[:renewals+1] {
		fmt.Fprintf(m.out, "  certificate %d, %s\n", i+1, spreadOf(times))
	}
	if early := len(slices.Concat(rounds[renewals+1:]...)); early > 0 {
		fmt.Fprintf(m.out, "  %d more meanwhile\n", early)
	}
	return w.stop()
}

// spreadOf says how times are spread, which are in order.
func spreadOf(times []time.Time) string {
	first, last := times[0], times[len(times)-1]
	counts := make([]int, last.Sub(first)/interval+1)
	for _, at := range times {
		counts[at.Sub(first)/interval]++
	}
	mean := float64(len(times)) / float64(len(counts))
	sorted := slices.Sorted(slices.Values(counts))
	return fmt.Sprintf("%d in %.0f s; per %.0f s: at least %d, median %d, at most %d, which is %.2f times the mean: %d",
		len(times), last.Sub(first).Seconds(), interval.Seconds(), sorted[0], sorted[len(sorted)/2], sorted[len(sorted)-1],
		float64(sorted[len(sorted)-1])/mean, counts)
}
