//go:build linux

package bpf_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

const (
	uid        = "0f9a6f3e-5a3c-4c11-9d1e-3b6f0a1c2d3e"
	uidSystemd = "0f9a6f3e_5a3c_4c11_9d1e_3b6f0a1c2d3e"
	otherUID   = "1f9a6f3e-5a3c-4c11-9d1e-3b6f0a1c2d3e"

	mountV2     = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	mountHybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
)

func TestPodCgroup(t *testing.T) {
	for _, c := range []struct {
		name      string
		uid       string // the constant uid if empty
		mountinfo string
		self      string // the path in /proc/self/cgroup
		mount     string // where the directories are
		pod, own  string // below the mount; empty if an error is expected
		err       string // a part of it
		hint      bool
	}{
		{name: "cgroupfs driver", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubepods/besteffort/pod" + uid + "/c1",
			pod:  "/kubepods/besteffort/pod" + uid, own: "/kubepods/besteffort/pod" + uid + "/c1"},
		{name: "cgroupfs driver, guaranteed", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubepods/pod" + uid + "/c1",
			pod:  "/kubepods/pod" + uid, own: "/kubepods/pod" + uid + "/c1"},
		{name: "systemd driver, containerd", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSystemd + ".slice/cri-containerd-c1.scope",
			pod:  "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSystemd + ".slice",
			own:  "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSystemd + ".slice/cri-containerd-c1.scope"},
		{name: "systemd driver, guaranteed, cri-o", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubepods.slice/kubepods-pod" + uidSystemd + ".slice/crio-c1.scope",
			pod:  "/kubepods.slice/kubepods-pod" + uidSystemd + ".slice",
			own:  "/kubepods.slice/kubepods-pod" + uidSystemd + ".slice/crio-c1.scope"},
		{name: "cgroupfs driver, cri-o", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubepods/burstable/pod" + uid + "/crio-c1",
			pod:  "/kubepods/burstable/pod" + uid, own: "/kubepods/burstable/pod" + uid + "/crio-c1"},
		{name: "crun's own level, cgroupfs driver", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubepods/besteffort/pod" + uid + "/crio-c1/container",
			pod:  "/kubepods/besteffort/pod" + uid, own: "/kubepods/besteffort/pod" + uid + "/crio-c1"},
		{name: "crun's own level", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubepods.slice/kubepods-pod" + uidSystemd + ".slice/crio-c1.scope/container",
			pod:  "/kubepods.slice/kubepods-pod" + uidSystemd + ".slice",
			own:  "/kubepods.slice/kubepods-pod" + uidSystemd + ".slice/crio-c1.scope"},
		{name: "node in a container", mountinfo: mountV2, mount: "/sys/fs/cgroup",
			self: "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + uidSystemd + ".slice/cri-containerd-c1.scope",
			pod:  "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + uidSystemd + ".slice",
			own:  "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + uidSystemd + ".slice/cri-containerd-c1.scope"},
		{name: "hybrid", mountinfo: mountHybrid, mount: "/sys/fs/cgroup/unified",
			self: "12:cpu:/kubepods/pod" + otherUID + "/c9\n1:name=systemd:/x\n0::/kubepods/pod" + uid + "/c1",
			pod:  "/kubepods/pod" + uid, own: "/kubepods/pod" + uid + "/c1"},
		{name: "mount of a part of the tree", mount: "/sys/fs/cgroup",
			mountinfo: "31 23 0:28 /kubepods /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			self:      "0::/kubepods/pod" + uid + "/c1",
			pod:       "/pod" + uid, own: "/pod" + uid + "/c1"},
		{name: "mount point with a space", mount: "/sys/fs/c group",
			mountinfo: `31 23 0:28 / /sys/fs/c\040group rw - cgroup2 cgroup2 rw` + "\n",
			self:      "0::/kubepods/pod" + uid + "/c1",
			pod:       "/kubepods/pod" + uid, own: "/kubepods/pod" + uid + "/c1"},

		{name: "private namespace", mountinfo: mountV2, self: "0::/", err: "namespace of its own", hint: true},
		{name: "above the namespace's root", mountinfo: mountV2, self: "0::/../pod" + uid + "/c1", err: "cannot be used"},
		{name: "deleted", mountinfo: mountV2, self: "0::/kubepods/pod" + uid + "/c1 (deleted)", err: "cannot be used"},
		{name: "version 1 only", mountinfo: "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
			self: "1:cpu:/kubepods/pod" + uid + "/c1", err: "no cgroup of version 2", hint: true},
		{name: "not mounted", mountinfo: "24 23 0:5 / /proc rw - proc proc rw\n", self: "0::/kubepods/pod" + uid + "/c1",
			err: "cgroup2 is not mounted", hint: true},
		{name: "mounted somewhere else", mountinfo: "31 23 0:28 /system.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			self: "0::/kubepods/pod" + uid + "/c1", err: "no mount of cgroup2 shows", hint: true},
		{name: "mount begins in the container", mountinfo: "31 23 0:28 /kubepods/pod" + uid + "/c1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			self: "0::/kubepods/pod" + uid + "/c1", err: "no mount of cgroup2 shows", hint: true},
		{name: "mount begins at the pod", mountinfo: "31 23 0:28 /kubepods/pod" + uid + " /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			self: "0::/kubepods/pod" + uid + "/c1", err: "is named after pod", hint: true},
		{name: "another pod", mountinfo: mountV2, self: "0::/kubepods/pod" + otherUID + "/c1", err: "is named after pod " + uid, hint: true},
		{name: "uid in a longer name", mountinfo: mountV2, self: "0::/kubepods/pod" + uid + "0/c1", err: "is named after pod", hint: true},
		{name: "uid of something else", mountinfo: mountV2, self: "0::/machine.slice/vm-" + uid + "/c1", err: "is named after pod", hint: true},
		{name: "systemd name without .slice", mountinfo: mountV2, self: "0::/kubepods-pod" + uidSystemd + "/c1", err: "is named after pod", hint: true},
		{name: "no pod at all", mountinfo: mountV2, self: "0::/user.slice/session-1.scope", err: "is named after pod", hint: true},
		{name: "the pod itself", mountinfo: mountV2, self: "0::/kubepods/pod" + uid, err: "is the pod's cgroup itself"},
		{name: "not there", mountinfo: mountV2, mount: "/elsewhere", self: "0::/kubepods/pod" + uid + "/c1", err: "no such file", hint: true},
		{name: "too deep", mountinfo: mountV2, mount: "/sys/fs/cgroup", self: "0::/pod" + uid + strings.Repeat("/c", 20), err: "more than 20 levels"},
		{name: "static pod", uid: "7d1f0a6c9be4c6dd5d6b9a5b6a3c1d2e", mountinfo: mountV2,
			self: "0::/kubepods/pod7d1f0a6c9be4c6dd5d6b9a5b6a3c1d2e/c1", err: "not one that the API server gives out"},
		{name: "no uid", uid: "-", mountinfo: mountV2, self: "0::/kubepods/pod/c1", err: "not one that the API server gives out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			self := strings.TrimSuffix(c.self[strings.LastIndex(c.self, "0::")+3:], "/")
			if c.mount != "" {
				full := filepath.Join(root, c.mount, self)
				if c.pod != "" {
					full = filepath.Join(root, c.mount, c.own)
				}
				must(t, os.MkdirAll(full, 0o755))
			}
			if c.uid == "" {
				c.uid = uid
			}
			pod, own, err := bpf.FindPodCgroup(file(t, c.mountinfo), file(t, c.self+"\n"), root, c.uid)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				if (api.Hint(err) != "") != c.hint {
					t.Errorf("hint %q", api.Hint(err))
				}
				if pod != (bpf.Cgroup{}) || own != (bpf.Cgroup{}) {
					t.Errorf("an error, and yet %v and %v", pod, own)
				}
				return
			}
			must(t, err)
			for _, each := range []struct {
				got  bpf.Cgroup
				want string
			}{{pod, c.pod}, {own, c.own}} {
				if each.got.Rel != each.want || each.got.Path != filepath.Join(root, c.mount, each.want) || each.got.ID == 0 {
					t.Errorf("got %+v, want %s", each.got, each.want)
				}
			}
		})
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func TestOpenCgroupRefusesOtherDirectories(t *testing.T) {
	for _, path := range []string{t.TempDir(), "/nowhere", "/proc"} {
		if c, err := bpf.OpenCgroup(path); err == nil {
			t.Errorf("%s: %+v", path, c)
		}
	}
}
