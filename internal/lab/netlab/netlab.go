//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// TB is what a Lab needs of its user. [testing.TB] has it all; a program passes a
// type of its own.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
}

// Lab is a network of nodes.
type Lab struct {
	t       TB
	root    string
	pods    podCgroups
	nodes   []*Node
	mu      sync.Mutex
	closers []func() error
	copied  string // see executable
}

// New makes a network of n nodes, at least one, and removes it with t.Cleanup. Without root
// or Linux's cgroup2 it skips the test, under CI=true it fails it. The environment says what the
// pods' cgroups are like: see [DriverVariable] and [MemoryVariable]. A process that the kernel
// kills at the limit of memory fails the test.
func New(t TB, n int) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("netlab: root is needed for network namespaces and cgroups")
		}
		t.Skipf("netlab: root is needed for network namespaces and cgroups")
	}
	pods, err := podsOfEnvironment()
	if err != nil {
		t.Fatalf("netlab: %v", err)
	}
	lab, err := open(n, pods, t.Logf)
	if err != nil {
		t.Fatalf("netlab: %v", err)
	}
	lab.t = t
	t.Cleanup(func() {
		outOfMemory := lab.outOfMemory()
		if err := lab.Close(); err != nil {
			t.Logf("netlab: cleaning up: %v", err)
		}
		if outOfMemory != nil {
			t.Fatalf("netlab: %v", outOfMemory)
		}
	})
	return lab
}

// Open is New for those who handle errors themselves, and call Close. It does not look at the
// environment.
func Open(n int, logf func(format string, args ...any)) (*Lab, error) {
	return open(n, podCgroups{}, logf)
}

func open(n int, pods podCgroups, logf func(format string, args ...any)) (*Lab, error) {
	if n < 1 {
		return nil, fmt.Errorf("a network of %d nodes", n)
	}
	mount, err := cgroupMount()
	if err != nil {
		return nil, err
	}
	for _, err := range removeStale(mount) {
		logf("netlab: removing what an earlier run left: %v", err)
	}
	lab := &Lab{pods: pods}
	if err := lab.build(mount, n); err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	return lab, nil
}

func (l *Lab) build(mount string, n int) error {
	root, err := makeRoot(mount)
	if err != nil {
		return err
	}
	l.root = root
	l.closers = append(l.closers, func() error { return removeTree(root) })
	for i := range n {
		node, err := newNode(l.pods, root, i)
		if err != nil {
			return fmt.Errorf("making node %d: %w", i, err)
		}
		node.lab = l
		l.nodes = append(l.nodes, node)
		l.closers = append(l.closers, node.ns.Close)
	}
	return l.connect()
}

// Close ends every process of the network and removes it.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, c := range slices.Backward(l.closers) {
		errs = append(errs, c())
	}
	l.closers = nil
	return errors.Join(errs...)
}

// Node returns node i, from 0.
func (l *Lab) Node(i int) *Node { return l.nodes[i] }

// Nodes returns all nodes.
func (l *Lab) Nodes() []*Node { return slices.Clone(l.nodes) }

// fatal ends the test, or panics in a program that opened the network itself.
func (l *Lab) fatal(err error) {
	if l.t == nil {
		panic(err)
	}
	l.t.Helper()
	l.t.Fatalf("netlab: %v", err)
}
