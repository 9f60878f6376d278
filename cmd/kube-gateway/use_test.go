//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// use is what a process takes that connections could leave behind.
type use struct {
	Process     int
	Goroutines  int
	Heap        int // live, in bytes
	Descriptors int `json:"-"`
	Anonymous   int `json:"-"` // memory of its own, in KiB
}

// tellUse is what has a process print its use.
const tellUse = syscall.SIGWINCH

// tellsUse prints the use of this process whenever it is asked, as one line.
func tellsUse() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, tellUse)
	go func() {
		for range asked {
			// What finalizers free goes with the second one.
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			text, _ := json.Marshal(use{Process: os.Getpid(), Goroutines: runtime.NumGoroutine(), Heap: int(m.HeapAlloc)})
			fmt.Fprintf(os.Stderr, "use: %s\n", text)
		}
	}()
}

// teller is a gateway that tells what its processes use.
type teller struct {
	*gatewaylab.Gateway
	told chan use
}

// teller starts a gateway.
func (l *lab) teller(n *netlab.Node) *teller {
	l.t.Helper()
	log, end := io.Pipe()
	l.t.Cleanup(func() { end.Close() })
	told := make(chan use)
	go func() {
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			var u use
			if text, ok := strings.CutPrefix(lines.Text(), "use: "); ok && json.Unmarshal([]byte(text), &u) == nil {
				told <- u
			}
		}
		// A line that is too long must not stop the gateway.
		_, _ = io.Copy(io.Discard, log)
	}()
	spec := l.spec(n)
	spec.Log = end
	// A fresh worker would hide what the one before has left.
	spec.RecycleInterval = -1
	return &teller{l.gateway(spec), told}
}

// use asks the supervisor and the worker.
func (g *teller) use(t *testing.T) (all [2]use) {
	t.Helper()
	for i, pid := range []int{g.Pid, status(t, g.Gateway).Worker.PID} {
		must.Do(t, syscall.Kill(pid, tellUse))
		select {
		case all[i] = <-g.told:
		case <-time.After(patience):
			t.Fatalf("process %d does not say what it uses", pid)
		}
		all[i].Descriptors = len(must.Get(os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)))(t))
		all[i].Anonymous = must.Get(anonymous(pid))(t)
	}
	return all
}

// entries counts the entries of all maps that a process has open and that can grow, by name. What belongs to a socket goes with
// it (BPF_MAP_TYPE_SK_STORAGE).
func entries(t *testing.T, pid int) map[string]int {
	t.Helper()
	all := make(map[string]int)
	for _, file := range must.Get(filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid)))(t) {
		text, err := os.ReadFile(file)
		if err != nil { // it has been closed
			continue
		}
		id := regexp.MustCompile(`\nmap_id:\s*(\d+)`).FindSubmatch(text)
		if id == nil {
			continue
		}
		m := must.Get(ebpf.NewMapFromID(ebpf.MapID(must.Get(strconv.Atoi(string(id[1])))(t))))(t)
		switch m.Type() {
		case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie:
			n := 0
			var key, value []byte
			for i := m.Iterate(); i.Next(&key, &value); {
				n++
			}
			all[must.Get(m.Info())(t).Name] = n
		}
		must.Do(t, m.Close())
	}
	return all
}

// TestEndedConnectionsLeaveNothing: what a gateway takes does not depend on how many connections it has carried.
func TestEndedConnectionsLeaveNothing(t *testing.T) {
	const (
		few, many = 500, 5000
		// atOnce are open at a time in both rounds: what they take at most is the same.
		atOnce = 50
		// As many as there are connections kept for the next ones; each of the others would leave ninety times that.
		goroutines, descriptors, slots = atOnce, atOnce, atOnce
		heap                           = 128 << 10 // 30 bytes for each of the others
		// Fragments of the heap, and what the runtime needs for itself, differ from run to run.
		anonymous = 3 << 10
	)
	l := newLab(t)
	gateways := [2]*teller{l.teller(l.a), l.teller(l.b)}
	type state struct {
		Processes [2]use
		Entries   map[string]int
	}
	look := func() (all [2]state) {
		for i, g := range gateways {
			all[i] = state{g.use(t), entries(t, g.Pid)}
		}
		return all
	}
	carry := func(n int) {
		for range n / atOnce {
			if r := l.client(l.a, l.a.AppCgroup, "concurrent", l.b.Addr(portEcho), strconv.Itoa(atOnce)); r.Error != "" {
				t.Fatal(r.Error)
			}
		}
	}
	idle := look()
	carry(few)
	// What is kept for the next connections goes within half a minute.
	rested := func(than [2]state) (now [2]state) {
		eventually(t, "gateways rest", func() error {
			now = look()
			for i := range now {
				for k, u := range now[i].Processes {
					before := than[i].Processes[k]
					if u.Goroutines > before.Goroutines+goroutines || u.Descriptors > before.Descriptors+descriptors {
						return fmt.Errorf("gateway %d, process %d: %+v, and before %+v", i, k, u, before)
					}
				}
			}
			return nil
		})
		return now
	}
	before := rested(idle)
	carry(many - few)
	after := rested(before)
	if n := status(t, gateways[1].Gateway).Traffic.Inbound.Encrypted; n != many {
		t.Errorf("the gateways have carried %d connections of %d", n, many)
	}
	for i := range after {
		for k, u := range after[i].Processes {
			if was := before[i].Processes[k]; u.Heap > was.Heap+heap || u.Anonymous > was.Anonymous+anonymous {
				t.Errorf("gateway %d, process %d: after %d connections %+v, and after %d %+v", i, k, few, was, many, u)
			}
		}
		for name, n := range after[i].Entries {
			if was := before[i].Entries[name]; n > was+slots {
				t.Errorf("gateway %d: map %s has %d entries after %d connections, and %d after %d", i, name, was, few, n, many)
			}
		}
	}
}
