//go:build linux

package supervisor

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
)

// podMemory is what is known of the memory of the pod. Its zero value knows nothing.
type podMemory struct {
	gauge *memory.Gauge
	own   string // the cgroup of the gateway's container
	// killed is how many processes of the gateway the kernel had killed when the last worker
	// was started.
	killed uint64
}

// openMemory finds the files about the pod's memory. A gateway works without them.
func (s *supervisor) openMemory() {
	gauge, err := memory.Find(s.own.Path, s.pod.Path)
	if err != nil {
		s.Log.Info("the memory of the pod is unknown: the gateway does not follow its limit", "error", err)
	}
	s.memory = podMemory{gauge: gauge, own: s.own.Path}
}

// limit returns what the pod may use, in bytes, 0 if there is no limit that is known.
func (m *podMemory) limit() int64 {
	if m.gauge == nil {
		return 0
	}
	reading, err := m.gauge.Read(math.MaxInt64)
	if err != nil || reading.Limit == memory.Unlimited {
		return 0
	}
	return reading.Limit
}

// hasRoom reports whether so many bytes more leave the reserve free.
func (m *podMemory) hasRoom(bytes int64) bool {
	if m.gauge == nil {
		return true
	}
	reading, err := m.gauge.Read(math.MaxInt64)
	return err == nil && (reading.Limit == memory.Unlimited || reading.Left >= bytes+memory.Reserve(reading.Limit))
}

// describe returns the memory as it is, or nil.
func (m *podMemory) describe() *api.Memory {
	if m.gauge == nil {
		return nil
	}
	used, err := m.gauge.Own()
	if err != nil {
		return nil
	}
	reading, err := m.gauge.Read(math.MaxInt64)
	if err != nil {
		return nil
	}
	d := &api.Memory{Used: used, Killed: m.countKilled()}
	if reading.Limit != memory.Unlimited {
		d.Limit, d.Left, d.Room = reading.Limit, reading.Left, reading.Room()
	}
	return d
}

// countKilled counts the processes of the gateway that the kernel has killed for want of memory. Version 1
// of cgroups does not.
func (m *podMemory) countKilled() uint64 {
	text, err := os.ReadFile(filepath.Join(m.own, "memory.events"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
			return n
		}
	}
	return 0
}

// explain adds to the end of a worker that the kernel has killed processes of the gateway meanwhile.
func (m *podMemory) explain(end error) error {
	before := m.killed
	if m.killed = m.countKilled(); end == nil || m.killed == before {
		return end
	}
	return fmt.Errorf("%w: the kernel killed it, as the pod's memory was used up", end)
}
