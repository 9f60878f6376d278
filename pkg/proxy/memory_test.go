//go:build linux

package proxy

import (
	"io"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"unsafe"
)

// Idle connections hold no buffers and no goroutines, whatever they have carried before.
func TestIdleMemory(t *testing.T) {
	const count = 200
	for _, c := range []struct {
		name string
		size int64
		// most is how many bytes of heap and stacks one connection may cost
		// one gateway.
		most int
	}{{"after little data", 100, 10 << 10}, {"after much data", 1 << 20, 10 << 10}} {
		t.Run(c.name, func(t *testing.T) {
			client, server := pair(t, sweeps)
			destination, accept := collect(t, server.ip)
			exchange := func() (near, far *net.TCPConn) {
				near = client.dial(destination)
				far = accept()
				for _, way := range [][2]*net.TCPConn{{near, far}, {far, near}} {
					var sending sync.WaitGroup
					sending.Go(func() {
						if _, err := io.Copy(way[0], patternReader(1, c.size)); err != nil {
							t.Error(err)
						}
					})
					if _, err := io.CopyN(io.Discard, way[1], c.size); err != nil {
						t.Fatal(err)
					}
					sending.Wait()
				}
				return near, far
			}
			// The applications' own ends count as well, and are taken off.
			exchange()
			awaitParked(t, client, server)
			before := memoryInUse()
			for range count {
				exchange()
			}
			awaitParked(t, client, server)
			after := memoryInUse()
			if name := os.Getenv("PROXY_TEST_HEAP"); name != "" {
				f, err := os.Create(name)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := pprof.Lookup("heap").WriteTo(f, 0); err != nil {
					t.Fatal(err)
				}
			}
			perGateway := (after - before) / count / 2
			t.Logf("%d bytes for each connection of one gateway, the applications' ends included", perGateway)
			if perGateway > c.most && !raceEnabled {
				t.Errorf("an idle connection takes %d bytes, want at most %d", perGateway, c.most)
			}
		})
	}
}

// TestRecordsFitTheirClasses: the allocator has no size between 576 and 640 bytes, nor between 768 and 896, and adds a word to
// what is larger than 512.
func TestRecordsFitTheirClasses(t *testing.T) {
	const word = 8
	for _, record := range []struct {
		name       string
		size, most uintptr
	}{{"connection", unsafe.Sizeof(connection{}), 768 - word}, {"carrier", unsafe.Sizeof(carrier{}), 576 - word}} {
		if record.size > record.most {
			t.Errorf("a %s has %d bytes, want at most %d", record.name, record.size, record.most)
		}
	}
}

// memoryInUse returns the bytes of live heap and stacks. Two collections empty
// the pools.
func memoryInUse() int {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}
