//go:build linux

package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Cleaned is what Clean removed.
type Cleaned struct {
	// Programs were attached to the pod's cgroup, Filters to its interfaces.
	Programs, Filters int
	// Undone is what Clean could not do, and the pod can do without.
	Undone error
}

// Clean removes what a dead gateway left in the pod of config. It is called in a container
// of the pod, and refuses to work where a gateway runs.
func Clean(ctx context.Context, config *api.Config) (Cleaned, error) {
	var done Cleaned
	running, err := gatewayListens("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
	if err != nil {
		return done, err
	}
	if running {
		return done, api.WithHint(errors.New("a gateway runs in the pod: one of its ports is being listened on"),
			"disable it instead: 'kubectl gateway disable'")
	}
	pod, _, err := bpf.PodCgroup(config.Pod.UID)
	if err != nil {
		return done, err
	}
	// Inbound comes first: outbound connections may cause inbound ones.
	if done.Filters, err = bpf.DetachStaleInbound(); err != nil {
		return done, fmt.Errorf("cleaning the pod's interfaces: %w", err)
	}
	if done.Programs, err = bpf.DetachStale(pod); err != nil {
		return done, fmt.Errorf("cleaning the pod's cgroup: %w", err)
	}
	left, err := bpf.Leftovers(pod)
	if err != nil {
		return done, fmt.Errorf("looking for what is left: %w", err)
	}
	if len(left) > 0 {
		return done, fmt.Errorf("still in the kernel: %s", strings.Join(left, ", "))
	}
	done.Undone = errors.Join(mark(pod.Path, endedAttribute, config.Number), releasePod(pod.Path))
	return done, ctx.Err()
}

// tcpListen is the state in /proc/net/tcp (include/net/tcp_states.h).
const tcpListen = "0A"

// gatewayListens reports whether a gateway listens, by the tables of proc_pid_net(5): on the port for
// other gateways, or on a pair of ports of loopback. The table of a family that the kernel lacks does
// not exist.
func gatewayListens(tables ...string) (bool, error) {
	listened := make(map[uint16]bool)
	for _, table := range tables {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("reading the pod's sockets: %w", err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 4 || fields[3] != tcpListen {
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err == nil {
				listened[uint16(port)] = true
			}
		}
		if err := lines.Err(); err != nil {
			return false, fmt.Errorf("reading the pod's sockets: %w", err)
		}
	}
	isPair := func(l api.Listeners) bool { return listened[l.Capture] && listened[l.Inband] }
	return listened[api.PeerPort] || slices.ContainsFunc(api.ListenerPairs(), isPair), nil
}
