//go:build linux

package proxy

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestResetThatAWriteHasSeen: the kernel reports a RST once, to a write of the one direction or to a
// read of the other, which must not take it for the end of the data.
func TestResetThatAWriteHasSeen(t *testing.T) {
	destination, accept := collect(t, podAddress())
	conn, err := net.Dial("tcp", destination.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	near := conn.(*net.TCPConn)
	reset(accept())
	eventually(t, "a write that meets the RST", func() bool {
		_, err := near.Write([]byte("x"))
		return err != nil
	})
	var ended atomic.Bool
	source, err := newPlainReader(near, new(bufferPools), &ended)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := source.next(); !errors.Is(err, errReset) {
		t.Errorf("the read says %v", err)
	}
}

// TestLeaving: an application that has ended its direction, and closes before it has read everything,
// resets the connection at the other end, too, without the sweeper. For the log nothing is wrong.
func TestLeaving(t *testing.T) {
	seldom := func(o *Options) { o.sweep = time.Hour }
	check := func(t *testing.T, client *testPod, l net.Listener) {
		destination, accept := collectAt(t, l)
		near := client.dial(destination)
		far := accept()
		exchangeWith(t, near, far)
		if err := near.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		expectEOF(t, far)
		reset(near)
		eventually(t, "the RST", func() bool { return hasError(far) })
		line := client.logged("the connection", func(c api.Connection) bool { return c.Direction == api.Outbound })
		if line.Error != "" {
			t.Errorf("logged %+v", line)
		}
	}
	t.Run("encrypted", func(t *testing.T) {
		client, server := pair(t, seldom)
		check(t, client, listen(t, addrPort(&net.TCPAddr{IP: server.ip.AsSlice()})))
	})
	t.Run("plaintext", func(t *testing.T) {
		client := newPod(t, newAuthority(t), func(o *Options) {
			permissive(o)
			seldom(o)
		})
		check(t, client, listen(t, addrPort(&net.TCPAddr{IP: podAddress().AsSlice()})))
	})
}

// exchangeWith has near talk to far.
func exchangeWith(t *testing.T, near, far net.Conn) {
	t.Helper()
	write(t, near, "question")
	expect(t, far, "question")
	write(t, far, "answer")
	expect(t, near, "answer")
}
