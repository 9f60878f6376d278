//go:build linux

package proxy

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmarks run both gateways and both applications in one process. Their
// CPU seconds are those of all four.

func cpuSeconds() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / float64(time.Second)
}

// bulk sends b.N megabytes over conn to a server that discards them.
func bulk(b *testing.B, conn *net.TCPConn, far *net.TCPConn) {
	const size = 1 << 20
	chunk := make([]byte, size)
	done := make(chan error, 1)
	go func() {
		sink := make([]byte, size)
		for {
			if _, err := far.Read(sink); err != nil {
				done <- err
				return
			}
		}
	}()
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuSeconds()
	for range b.N {
		if _, err := conn.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	if err := conn.CloseWrite(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != io.EOF {
		b.Fatal(err)
	}
	b.ReportMetric((cpuSeconds()-start)/float64(b.N)*1000, "cpu-s/GB")
}

func BenchmarkRelayEncrypted(b *testing.B) {
	client, server := pair(b, nil)
	destination, accept := collect(b, server.ip)
	conn := client.dial(destination)
	bulk(b, conn, accept())
}

func BenchmarkRelayPlaintext(b *testing.B) {
	client := newPod(b, newAuthority(b), permissive)
	destination, accept := collect(b, podAddress())
	conn := client.dial(destination)
	bulk(b, conn, accept())
}

func BenchmarkRelayNone(b *testing.B) {
	destination, accept := collect(b, podAddress())
	conn, err := net.Dial("tcp", destination.String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	bulk(b, conn.(*net.TCPConn), accept())
}

func BenchmarkPingPong(b *testing.B) {
	client, server := pair(b, nil)
	conn := client.dial(application(b, server.ip, echo))
	message := make([]byte, 64)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := conn.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnect(b *testing.B) {
	client, server := pair(b, nil)
	connections(b, client, application(b, server.ip, echo))
}

func BenchmarkConnectInband(b *testing.B) {
	client, server, band := inbandPair(b, nil)
	connections(b, client, applicationAt(b, band.behind(b, server.ip), echo))
}

// connections makes b.N connections, one after the other.
func connections(b *testing.B, client *testPod, destination netip.AddrPort) {
	message := make([]byte, 64)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuSeconds()
	for range b.N {
		conn, err := client.tryDial(destination)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			b.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpuSeconds()-start)/float64(b.N)*1e6, "cpu-us/op")
}
