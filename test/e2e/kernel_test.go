//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// kernelObjects are the eBPF programs, maps and links of one gateway.
type kernelObjects struct {
	programs map[ebpf.ProgramID]string // by name
	maps     map[ebpf.MapID]bool
	links    map[link.ID]bool
}

// gatewayObjects returns what the kernel holds for the gateway that runs in the
// pod: what its supervisor has open, what is attached to the pod's cgroup, and
// the maps of all these programs. The kernel gives every object a new number, so
// that one which is gone cannot be mistaken for another.
func gatewayObjects(t *testing.T, p *pod) kernelObjects {
	t.Helper()
	o := kernelObjects{programs: map[ebpf.ProgramID]string{}, maps: map[ebpf.MapID]bool{}, links: map[link.ID]bool{}}
	for _, pid := range processesOf(t, p, "supervise") {
		o.addOpen(t, pid)
	}
	for _, id := range attachedTo(t, p) {
		o.programs[id] = ""
	}
	for id := range o.programs {
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			t.Fatalf("program %d: %v", id, err)
		}
		info, err := program.Info()
		program.Close()
		if err != nil {
			t.Fatalf("program %d: %v", id, err)
		}
		o.programs[id] = info.Name
		ids, _ := info.MapIDs()
		for _, m := range ids {
			o.maps[m] = true
		}
	}
	if len(o.programs) == 0 || len(o.maps) == 0 {
		t.Fatalf("the gateway of %s has the objects %+v", p, o)
	}
	return o
}

// addOpen adds the objects that a process has open.
func (o kernelObjects) addOpen(t *testing.T, pid int) {
	t.Helper()
	files := must.Get(filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid)))(t)
	for _, file := range files {
		text, _ := os.ReadFile(file) // it may be closed by now
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if err != nil {
				continue
			}
			switch name {
			case "prog_id":
				o.programs[ebpf.ProgramID(id)] = ""
			case "map_id":
				o.maps[ebpf.MapID(id)] = true
			case "link_id":
				o.links[link.ID(id)] = true
			}
		}
	}
}

// attachedTo returns the programs that are attached to the pod's cgroup.
func attachedTo(t *testing.T, p *pod) []ebpf.ProgramID {
	t.Helper()
	group := podCgroup(t, p)
	var found []ebpf.ProgramID
	for _, kind := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupSockOps, ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
		ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind,
		ebpf.AttachCGroupInetSockCreate, ebpf.AttachCgroupInetSockRelease, ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind,
		ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname,
	} {
		result, err := queryCgroup(group, kind)
		if err != nil {
			t.Fatalf("asking for %v of %s: %v", kind, group, err)
		}
		for _, program := range result.Programs {
			found = append(found, program.ID)
		}
	}
	return found
}

func queryCgroup(group string, kind ebpf.AttachType) (*link.QueryResult, error) {
	dir, err := os.Open(group)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: kind})
}

// podCgroup returns the directory of the pod's cgroup on this machine.
func podCgroup(t *testing.T, p *pod) string {
	t.Helper()
	var found string
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() && strings.Contains(entry.Name(), "pod"+p.uid) {
				found = path
				return fs.SkipAll
			}
			return nil // others come and go
		})
		if err == nil && found != "" {
			return found
		}
	}
	t.Fatalf("the cgroup of %s is not found", p)
	return ""
}

// left names what is still in the kernel.
func (o kernelObjects) left() []string {
	var found []string
	for id, name := range o.programs {
		if program, err := ebpf.NewProgramFromID(id); err == nil {
			program.Close()
			found = append(found, fmt.Sprintf("program %d %s", id, name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			found = append(found, fmt.Sprintf("program %d %s: %v", id, name, err))
		}
	}
	for id := range o.maps {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			found = append(found, fmt.Sprintf("map %d %v", id, m))
			m.Close()
		} else if !errors.Is(err, fs.ErrNotExist) {
			found = append(found, fmt.Sprintf("map %d: %v", id, err))
		}
	}
	for id := range o.links {
		if l, err := link.NewFromID(id); err == nil {
			l.Close()
			found = append(found, fmt.Sprintf("link %d", id))
		} else if !errors.Is(err, fs.ErrNotExist) {
			found = append(found, fmt.Sprintf("link %d: %v", id, err))
		}
	}
	return found
}

// checkGone fails the test unless all objects are gone, and nothing is attached
// to the pod. The plugin has waited for it, so this does not.
func (o kernelObjects) checkGone(t *testing.T, p *pod) {
	t.Helper()
	if left := o.left(); len(left) != 0 {
		t.Errorf("of the gateway of %s, the kernel still has %v", p, left)
	}
	if attached := attachedTo(t, p); len(attached) != 0 {
		t.Errorf("programs %v are attached to the cgroup of %s", attached, p)
	}
}
