//go:build linux

package handoff

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestCountersAreShared: what one worker after the other counts adds up in the
// supervisor, and no worker can take the memory away.
func TestCountersAreShared(t *testing.T) {
	supervisor, f, err := NewSharedMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		worker := must.Get(mapShared(f))(t).Counters
		worker.Of(traffic.Outbound).Sent.Add(5)
		worker.Of(traffic.Inbound).Because(traffic.Plaintext)
	}
	if diff := cmp.Diff(api.Traffic{Outbound: api.Direction{Sent: 10}}, supervisor.Counters.Traffic()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]api.Unencrypted{{Direction: api.Inbound, Reason: "plaintext", Connections: 2}}, supervisor.Counters.Unencrypted()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("shrinking the counters: %v, want EPERM", err)
	}
	other := must.Get(memoryFile("counters", 0, func(*os.File) error { return nil }))(t)
	defer other.Close()
	if _, err := mapShared(other); err == nil {
		t.Error("an empty file was mapped")
	}
}
