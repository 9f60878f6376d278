//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// plan says what to measure.
type plan struct {
	// Program is the gateway's executable, and Base another one to compare it with.
	Program, Base string
	// Plugin is the plugin's executable, with which all is measured on a cluster, "" without one.
	Plugin string
	Rounds int
	// Duration is how long a single measurement takes.
	Duration time.Duration
	Groups   []string
	Sides    []string
	// Held is how many idle connections the memory is measured with, and Settle for how long processes are left
	// alone before it is: gateways give back what starting took a second later. With connections it is six times that: by
	// then they have parked, and what that frees is given back.
	Held   int
	Settle time.Duration
	// Rest is for how long one side, and base, is left alone after traffic, in the first round: the last line of a log may come a
	// minute later.
	Rest time.Duration
	// Progress receives a line for each round.
	Progress io.Writer
}

// run carries out a plan. Everything that it starts has ended when it returns.
func (p plan) run(ctx context.Context) (r *report, err error) {
	r = newReport(p)
	var sides []*side
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.close())
		}
	}()
	measures := slices.DeleteFunc(allMeasures(), func(m measure) bool { return !slices.Contains(p.Groups, m.group) })
	if len(measures) > 0 {
		for _, name := range p.Sides {
			s, err := p.newSide(ctx, name)
			if err != nil {
				return nil, err
			}
			sides = append(sides, s)
		}
		if err := p.warmUp(ctx, measures, sides); err != nil {
			return nil, err
		}
	}
	for round := range p.Rounds {
		fmt.Fprintf(p.Progress, "round %d of %d\n", round+1, p.Rounds)
		if err := p.round(ctx, r, round, measures, sides); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// newSide starts a side.
func (p plan) newSide(ctx context.Context, name string) (*side, error) {
	s := &side{name: name}
	var err error
	if p.Plugin != "" {
		err = startOnCluster(ctx, s, p.Plugin)
	} else {
		err = startInNamespaces(ctx, s, p.program(name), p.like(name))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", name, s.explain(err)), s.close())
	}
	return s, nil
}

// program is the executable of a side's gateways.
func (p plan) program(side string) string {
	if side == base {
		return p.Base
	}
	return p.Program
}

// like is the side whose configuration a side's gateways have.
func (p plan) like(side string) string {
	if side == base {
		return measured(p.Sides)
	}
	return side
}

// round has the sides take turns measure by measure, so that whatever else the
// machine does meets all of them. Each round begins with another side.
func (p plan) round(ctx context.Context, r *report, round int, measures []measure, sides []*side) error {
	for _, m := range measures {
		for i := range sides {
			s := sides[(i+round)%len(sides)]
			values, err := m.run(ctx, s, p.Duration)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", m.name, s.name, s.explain(err))
			}
			r.add(s.name, values)
		}
	}
	for i := range p.Sides {
		name := p.Sides[(i+round)%len(p.Sides)]
		if slices.Contains(p.Groups, groupMemory) && name != direct {
			rest := time.Duration(0)
			if round == 0 && (name == base || name == measured(p.Sides)) {
				rest = p.Rest
			}
			values, err := measureMemory(ctx, p, name, rest)
			if err != nil {
				return fmt.Errorf("memory, %s: %w", name, err)
			}
			r.add(name, values)
		}
		if slices.Contains(p.Groups, groupStart) && slices.Contains([]string{gateways, inband, service, base}, name) {
			values, err := measureStart(ctx, p.program(name), p.like(name), p.Duration)
			if err != nil {
				return fmt.Errorf("start, %s: %w", name, err)
			}
			r.add(name, values)
		}
	}
	return nil
}

// warmUp does everything once, briefly and for nothing.
func (p plan) warmUp(ctx context.Context, measures []measure, sides []*side) error {
	for _, m := range measures {
		for _, s := range sides {
			if _, err := m.run(ctx, s, p.Duration/10); err != nil {
				return fmt.Errorf("warming up, %s, %s: %w", m.name, s.name, s.explain(err))
			}
		}
	}
	return nil
}
