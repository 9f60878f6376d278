//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// machine is what the numbers depend on.
type machine struct {
	CPU               string `json:"cpu"`
	Cores             int    `json:"cores"`
	Kernel            string `json:"kernel"`
	Go                string `json:"go"`
	CongestionControl string `json:"congestionControl"`
	// LoadBefore and LoadAfter are the load averages of the last minute.
	LoadBefore string `json:"loadBefore"`
	LoadAfter  string `json:"loadAfter"`
}

func (m machine) String() string {
	return fmt.Sprintf("machine: %d cores (%s), Linux %s, %s, %s; load %s before, %s after",
		m.Cores, m.CPU, m.Kernel, m.Go, m.CongestionControl, m.LoadBefore, m.LoadAfter)
}

// describe looks at the machine, and at a network as all sides have it.
func describe() (m machine, err error) {
	m = machine{CPU: model(), Cores: runtime.NumCPU(), Go: runtime.Version(), LoadBefore: load()}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(name.Release[:])
	lab, err := netlab.Open(1, func(string, ...any) {})
	if err != nil {
		return m, err
	}
	err = lab.Node(0).Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
		m.CongestionControl = strings.TrimSpace(string(text))
		return err
	})
	return m, errors.Join(err, lab.Close())
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func model() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
