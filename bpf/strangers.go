//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Strangers returns the clients without a gateway that permissive mode has let in, the
// [api.MaxStrangers] last seen, the last one first.
func (p *Programs) Strangers() ([]api.Stranger, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, fmt.Errorf("reading the clock: %w", err)
	}
	wall := time.Now()
	var list []api.Stranger
	var key objectsEndpoint
	var seen objectsSeen
	entries := p.objects.KgwStrangers.Iterate()
	for entries.Next(&key, &seen) {
		client := key.addrPort()
		list = append(list, api.Stranger{Client: client.Addr(), Port: client.Port(), Connections: seen.Connections,
			LastSeen: wall.Add(time.Duration(int64(seen.Last) - now.Nano())).UTC()})
	}
	// Clients that come meanwhile make others go.
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("reading the clients without a gateway: %w", err)
	}
	slices.SortFunc(list, func(a, b api.Stranger) int { return b.LastSeen.Compare(a.LastSeen) })
	return list[:min(len(list), api.MaxStrangers)], nil
}
