//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Where a pod runs into its memory limit, the kernel kills the process that is largest after its
// oom_score_adj. The kubelet gives an ephemeral container 999 (it can have no request), more than to most
// applications, so that the gateway's processes go first, and with memory.oom.group, which the
// kubelet sets as well, all at once. An ephemeral container is never started again.
//
// So the supervisor excepts itself, from memory.oom.group too (cgroup-v2.rst), and has its children
// bear what the kubelet intended: it replaces a worker that was killed, as any other that died.

// protected is the least oom_score_adj (include/uapi/linux/oom.h: OOM_SCORE_ADJ_MIN).
const protected = "-1000"

// protection is how the supervisor is excepted.
type protection struct {
	// was is the oom_score_adj that children get back, empty if nothing has changed.
	was string
	// missing is why the supervisor is not excepted, nil if it is.
	missing error
}

// protect excepts this process, which needs CAP_SYS_RESOURCE.
func protect() protection {
	path := oomScoreAdj("self")
	was, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(protected), 0)
	}
	if err != nil {
		return protection{missing: err}
	}
	return protection{was: strings.TrimSpace(string(was))}
}

// unprotect gives a child the value that the kubelet intended. The child must not have been waited
// for, so that no other process has its number.
func (p protection) unprotect(pid int) error {
	if p.was == "" {
		return nil
	}
	if err := os.WriteFile(oomScoreAdj(strconv.Itoa(pid)), []byte(p.was), 0); err != nil {
		return fmt.Errorf("setting its oom_score_adj back: %w", err)
	}
	return nil
}

func oomScoreAdj(process string) string { return filepath.Join("/proc", process, "oom_score_adj") }

// describe adds to a status what is missing. It matters where the memory has a limit.
func (p protection) describe(st *api.Status) {
	if p.missing != nil && st.Memory != nil && st.Memory.Limit > 0 {
		st.Missing = append(st.Missing, api.MissingProtection+": "+api.OneLine(p.missing.Error()))
	}
}
