//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// heldConnections is how many idle connections the memory is measured with.
const heldConnections = 1000

// measureMemory starts a side afresh, because what a process has done before
// decides how much memory it keeps. rest is how long its processes are left alone
// after traffic; 0 leaves that out.
func measureMemory(ctx context.Context, p plan, name string, rest time.Duration) (found []value, err error) {
	s, err := p.newSide(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = s.explain(err)
		}
		err = errors.Join(err, s.close())
	}()
	look := func(settle time.Duration) (out, in memory, err error) {
		select {
		case <-ctx.Done():
			return out, in, ctx.Err()
		case <-time.After(settle):
		}
		return s.memory()
	}

	before, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	outIdle, inIdle, err := look(p.Settle)
	if err != nil {
		return nil, err
	}
	if _, err := s.client.ask(ctx, order{Op: opHold, Target: s.target, Workers: p.Held}); err != nil {
		return nil, err
	}
	outHeld, inHeld, err := look(6 * p.Settle)
	if err != nil {
		return nil, err
	}
	result, err := s.client.ask(ctx, order{Op: opRelease})
	if err != nil {
		return nil, err
	}
	after, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.check(before, after, result); err != nil {
		return nil, fmt.Errorf("the measurement is void: %w", err)
	}

	mean := func(a, b uint64) float64 { return (float64(a) + float64(b)) / 2 / (1 << 20) }
	each := func(idle, held memory) float64 {
		return (float64(held.PSS) - float64(idle.PSS)) / 1024 / float64(result.Connections)
	}
	with := fmt.Sprintf("%d connections", result.Connections)
	found = []value{
		{tableMemory, "idle, RSS", "MiB", mean(outIdle.RSS, inIdle.RSS)},
		{tableMemory, "idle, PSS", "MiB", mean(outIdle.PSS, inIdle.PSS)},
		{tableMemory, with + ", RSS", "MiB", mean(outHeld.RSS, inHeld.RSS)},
		{tableMemory, with + ", PSS", "MiB", mean(outHeld.PSS, inHeld.PSS)},
		{tableMemory, "peak until then, RSS", "MiB", mean(outHeld.Peak, inHeld.Peak)},
		{tableMemory, "a connection on the client's side", "KiB", each(outIdle, outHeld)},
		{tableMemory, "a connection on the server's side", "KiB", each(inIdle, inHeld)},
	}
	if rest == 0 {
		return found, nil
	}
	for _, traffic := range []order{{Op: opConnect, Workers: 32}, {Op: opUpload, Workers: 8}, {Op: opDownload, Workers: 8}} {
		traffic.Target, traffic.Duration = s.target, p.Settle
		if _, err := s.client.ask(ctx, traffic); err != nil {
			return nil, err
		}
	}
	outRested, inRested, err := look(rest)
	if err != nil {
		return nil, err
	}
	return append(found, value{tableMemory, "idle after traffic, PSS", "MiB", mean(outRested.PSS, inRested.PSS)}), nil
}

// memoryOfBoth returns what runs in the cgroups of the proxies on the client's and the server's side.
func memoryOfBoth(client, server string) (out, in memory, err error) {
	if out, err = memoryOf(client); err == nil {
		in, err = memoryOf(server)
	}
	if err != nil {
		err = fmt.Errorf("reading the memory of the proxies: %w", err)
	}
	return out, in, err
}
