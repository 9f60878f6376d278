//go:build linux

package bpf

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// maxVerified is how many instructions of one program the verifier may go through. Each takes a microsecond of CPU
// when the gateway of a pod starts. Linux 6.18 goes through 2,300 of kgw_ingress, and 12,600 of all programs; a loop that is
// unrolled or a function that is not GLOBAL makes 10,000 of one.
const maxVerified = 8_000

// TestVerifierHasLittleToDo asks the kernel how much it has looked at.
func TestVerifierHasLittleToDo(t *testing.T) {
	must.Do(t, rlimit.RemoveMemlock())
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadObjects, loadInbound} {
		programs := must.Get(ebpf.NewCollectionWithOptions(must.Get(load())(t), ebpf.CollectionOptions{
			Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
		}))(t)
		for name, p := range programs.Programs {
			verified := 0
			for line := range strings.Lines(p.VerifierLog) {
				_, _ = fmt.Sscanf(line, "processed %d insns", &verified)
			}
			if verified == 0 || verified > maxVerified {
				t.Errorf("%s: the verifier has gone through %d instructions, the bound is %d", name, verified, maxVerified)
			}
			t.Logf("%s: %d", name, verified)
		}
		programs.Close()
	}
}
