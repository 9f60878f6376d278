//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// forwarded returns a client's connection through the forwarder and the
// server's end of it, both in our own network namespace.
func forwarded(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	requireRootForTest(t)
	network, err := openNetwork(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	target, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- forward(ctx, listener, network, target.Addr().String()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("forward ended with %v", err)
		}
	})
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	accepted, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	for _, conn := range []net.Conn{conn, accepted} {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

// The end of one direction leaves the other open.
func TestForwardHalfClose(t *testing.T) {
	client, server := forwarded(t)
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(server); err != nil || string(got) != "question" {
		t.Fatalf("the server read %q, %v", got, err)
	}
	if _, err := server.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
		t.Fatalf("the client read %q, %v", got, err)
	}
}

// A peer that is gone ends the connection of the other.
func TestForwardAbort(t *testing.T) {
	client, server := forwarded(t)
	if err := server.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	server.Close()
	_, err := client.Read(make([]byte, 1))
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client's read ended with %v", err)
	}
}
