//go:build e2e

package e2e

import (
	"encoding/json"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestBench runs the benchmark on the cluster, too briefly to mean anything. It counts nothing unless both gateways say that
// exactly these connections through a Service, with exactly these bytes, were encrypted.
func TestBench(t *testing.T) {
	t.Parallel()
	out := runCommand(t.Context(), t, "", "../../bench/on-cluster", "--rounds=1", "--duration=50ms", "--only=throughput,latency,connections", "-o=json")
	if out.code != 0 {
		t.Fatal(out.stderr)
	}
	var report struct {
		Results []struct {
			Table, Name string
			Median      map[string]float64
		}
	}
	must.Do(t, json.Unmarshal([]byte(out.stdout), &report))
	if len(report.Results) == 0 {
		t.Error("no results")
	}
	for _, line := range report.Results {
		for _, side := range []string{"gateways", "inband"} {
			if line.Median[side] <= 0 {
				t.Errorf("%s, %s: %s is %v", line.Table, line.Name, side, line.Median[side])
			}
		}
	}
}
