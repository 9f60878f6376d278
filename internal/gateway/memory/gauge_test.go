//go:build linux

package memory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// cgroupDir writes the files of a cgroup and returns its path.
func cgroupDir(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	must.Do(t, os.MkdirAll(dir, 0o755))
	for name, text := range files {
		must.Do(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// stat is an extract of what Linux 6.12 shows.
const stat = "anon 1000\nfile 600\nkernel 300\nshmem 100\ninactive_anon 400\nactive_anon 600\ninactive_file 300\nactive_file 200\nunevictable 0\nslab_reclaimable 70\nslab_unreclaimable 30\n"

func two(max, current string) map[string]string {
	return map[string]string{"memory.max": max + "\n", "memory.current": current + "\n", "memory.stat": stat}
}

func TestRead(t *testing.T) {
	one := func(limit, usage string) map[string]string {
		return map[string]string{"memory.limit_in_bytes": limit + "\n", "memory.usage_in_bytes": usage + "\n",
			"memory.stat": "inactive_file 1\nactive_file 1\ntotal_inactive_file 300\ntotal_active_file 200\n"}
	}
	for name, c := range map[string]struct {
		own, pod map[string]string
		enough   int64
		want     Reading
	}{
		"no limit":                   {two("max", "500"), two("max", "900"), 1 << 30, Reading{Unlimited, Unlimited}},
		"the pod's":                  {two("max", "500"), two("10000", "900"), 5000, Reading{10000, 9100}},
		"page cache can be dropped":  {two("max", "500"), two("2000", "1900"), 5000, Reading{2000, 670}},
		"tightest is the own":        {two("1000", "900"), two("2000", "1000"), 0, Reading{1000, 100}},
		"tightest is the pod's":      {two("1000", "100"), two("2000", "1900"), 0, Reading{2000, 100}},
		"shrunk below what is used":  {two("max", "500"), two("1000", "5000"), 0, Reading{1000, 0}},
		"more reclaimable than used": {two("max", "0"), two("1000", "100"), 5000, Reading{1000, 1000}},
		"version 1":                  {one("9223372036854771712", "500"), one("2000", "1900"), 5000, Reading{2000, 600}},
		"version 1, no limit":        {one("9223372036854771712", "500"), one("9223372036854771712", "900"), 5000, Reading{Unlimited, Unlimited}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := cgroupDir(t, filepath.Join(t.TempDir(), "pod"), c.pod)
			opened := must.Get(Open(cgroupDir(t, filepath.Join(pod, "own"), c.own), pod))(t)
			defer opened.Close()
			// Another process has the files alone.
			g := FromFiles(opened.Files())
			got := must.Get(g.Read(c.enough))(t)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestReadAgain: a limit that changes is seen through the open files.
func TestReadAgain(t *testing.T) {
	dir := cgroupDir(t, t.TempDir(), two("max", "500"))
	g := must.Get(Open(dir))(t)
	defer g.Close()
	must.Get(g.Read(0))(t)
	cgroupDir(t, dir, two("4000", "700"))
	if got := must.Get(g.Read(0))(t); got != (Reading{4000, 3300}) {
		t.Errorf("after the change: %+v", got)
	}
	if own := must.Get(g.Own())(t); own != 700 {
		t.Errorf("own: %d", own)
	}
	cgroupDir(t, dir, two("many", "700"))
	if _, err := g.Read(0); err == nil {
		t.Error("a limit of many bytes was read")
	}
}

func TestNoController(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoController) {
		t.Errorf("an empty cgroup: %v", err)
	}
	var none *Gauge
	none.Close()
	if FromFiles(none.Files()) != nil {
		t.Error("no files make a gauge")
	}
}

func TestLegacyDirs(t *testing.T) {
	const mounts = "30 23 0:26 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n" +
		"31 23 0:27 %s /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n" +
		"32 23 0:28 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n"
	for name, c := range map[string]struct {
		self, root string
		want       []string
		fails      bool
	}{
		"the host's namespace": {"9:name=systemd:/x\n4:memory:/kubepods/pod1/c1\n0::/kubepods/pod1/c1\n", "/",
			[]string{"/sys/fs/cgroup/memory/kubepods/pod1/c1", "/sys/fs/cgroup/memory/kubepods/pod1"}, false},
		"mounted from the pod's parent": {"4:hugetlb,memory:/kubepods/pod1/c1\n", "/kubepods",
			[]string{"/sys/fs/cgroup/memory/pod1/c1", "/sys/fs/cgroup/memory/pod1"}, false},
		"a namespace of its own": {"4:memory:/\n", "/", nil, true},
		"no version 1":           {"0::/kubepods/pod1/c1\n", "/", nil, true},
		"mounted from elsewhere": {"4:memory:/kubepods/pod1/c1\n", "/system.slice", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := cgroupDir(t, t.TempDir(), map[string]string{"cgroup": c.self, "mountinfo": fmt.Sprintf(mounts, c.root)})
			got, err := legacyDirs(filepath.Join(dir, "cgroup"), filepath.Join(dir, "mountinfo"), "/", "pod1")
			if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != c.fails {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
