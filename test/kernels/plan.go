//go:build linux

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// kernel is one kernel to test on.
type kernel struct {
	Name    string // on the command line
	Suite   string // the Debian release that has it
	Version string // of its package, unless the release has only others
	Pods    string // what is special about the pods
	// Env is the environment of the tests with pods.
	Env []string
}

func kernels() []kernel {
	return []kernel{
		{Name: "5.10", Suite: "bullseye", Version: "5.10.0-32"},
		{Name: "6.1", Suite: "bookworm", Version: "6.1.0-50", Pods: "systemd's cgroup names", Env: []string{netlab.DriverVariable + "=systemd"}},
		{Name: "6.12", Suite: "trixie", Version: "6.12.117+deb13", Pods: "128 MiB of memory", Env: []string{netlab.MemoryVariable + "=128M"}},
		{Name: "7", Suite: "sid", Version: "7.2.13+deb14"},
	}
}

// describe tells what a guest is like.
func (k kernel) describe(pkg string) string {
	text := pkg + " of Debian " + k.Suite
	if k.Pods != "" {
		text += ", pods with " + k.Pods
	}
	return text
}

// group is the tests of one package.
type group struct {
	Dir   string   // of the package
	Tests []string // all, if there are none
	Not   []string // and these are left out
	Pods  bool     // whether the tests have pods as a kernel's Env asks for
}

// full is everything that can depend on a kernel. Left out are the tests of many
// connections, which take hours without KVM, and tests of whole gateways that repeat
// with other settings what another one shows.
func full() []group {
	return []group{
		{Dir: "internal/lab/netlab"},
		{Dir: "internal/gateway/confine"},
		{Dir: "bpf", Not: []string{"TestHundredThousandConnections", "TestThousandConcurrentConnections"}, Pods: true},
		{Dir: "cmd/kube-gateway", Tests: []string{
			"TestTwoGateways", "TestOneGateway", "TestConnectWaits", // capture, wire port, plaintext
			"TestInband", "TestStrictInbound", "TestModeSwitch", "TestUnguarded", "TestNodeSide", "TestUDP",
			"TestExisting", "TestExistingReset", "TestExistingInStrictMode",
			"TestDisableDrains", "TestDisableAborts", "TestDisableStrict",
			"TestTakeOverDrains", "TestTakeOverOtherSettings", "TestTakeOverHalfOpen", "TestPortsTaken",
			"TestGatewayKilled", "TestGatewayEnds", "TestPodTerminates", "TestWorkerDies",
			"TestWorkerIsUnprivileged", "TestExporterIsUnprivileged",
			"TestRenewal", "TestFirstDelivery",
			"TestEdges", "TestMetrics", "TestVerifyEncrypted",
			"TestMemoryIdle", "TestMemoryBulk", "TestMemoryHog",
			"TestSocketsAreUsedAgain",
		}, Pods: true},
	}
}

// short shows in minutes that everything loads and works at all.
func short() []group {
	return []group{
		{Dir: "internal/gateway/confine"},
		{Dir: "bpf", Tests: []string{"TestRequirementsAreComplete", "TestCapture", "TestConnectWaits", "TestInband", "TestStrictInbound"}, Pods: true},
		{Dir: "cmd/kube-gateway", Tests: []string{"TestTwoGateways", "TestStrictInbound", "TestDisableDrains"}, Pods: true},
	}
}

// step is a package and those of its tests that a guest runs.
type step struct {
	Group group
	Tests []string
}

// choose returns which of the tests that a package has are to run. Each name of the
// group must be among them: a test that is renamed is not to vanish.
func (g group) choose(has []string, only *regexp.Regexp) (tests []string, err error) {
	for _, name := range slices.Concat(g.Tests, g.Not) {
		if !slices.Contains(has, name) {
			return nil, fmt.Errorf("%s has no test %s", g.Dir, name)
		}
	}
	for _, name := range has {
		in := len(g.Tests) == 0 || slices.Contains(g.Tests, name)
		if in && !slices.Contains(g.Not, name) && only.MatchString(name) {
			tests = append(tests, name)
		}
	}
	return tests, nil
}

// program is the name of the package's test binary.
func (g group) program() string { return strings.ReplaceAll(g.Dir, "/", "-") + ".test" }

// script is what a guest's shell runs. Lines that begin with "== " are for the host; $(up)
// is the time since the guest was booted, in seconds. One test runs at a time: a guest is small.
func script(k kernel, steps []step, timeout time.Duration) string {
	var b strings.Builder
	for _, s := range steps {
		env := ""
		if s.Group.Pods {
			env = strings.Join(k.Env, " ")
		}
		fmt.Fprintf(&b, "echo \"== begin %s $(up)\"\ncd /src/%s\n", s.Group.Dir, s.Group.Dir)
		fmt.Fprintf(&b, "env %s /tests/%s -test.v=test2json -test.parallel=1 -test.timeout=%v -test.run='^(%s)$'\n",
			env, s.Group.program(), timeout, strings.Join(s.Tests, "|"))
		fmt.Fprintf(&b, "printf '\\n== end %s %%d %%s\\n' $? $(up)\n", s.Group.Dir)
	}
	return b.String()
}
