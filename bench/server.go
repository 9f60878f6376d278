//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// server is the measured application's serving side.
type server struct {
	connections, open atomic.Int64
	sent, received    atomic.Uint64
}

func serverMain(args []string) int {
	ln, err := listen(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := &server{}
	go s.accept(ln)
	return serveOrders(s.totals)
}

func (s *server) totals(order) (outcome, error) {
	return outcome{
		Connections: int(s.connections.Load()), Open: int(s.open.Load()),
		Sent: s.sent.Load(), Received: s.received.Load(),
	}, nil
}

func (s *server) accept(ln *net.TCPListener) {
	for {
		conn, err := ln.AcceptTCP()
		if err != nil {
			fmt.Fprintln(os.Stderr, "accepting:", err)
			os.Exit(1)
		}
		s.connections.Add(1)
		s.open.Add(1)
		go s.serve(conn)
	}
}

func (s *server) serve(conn *net.TCPConn) {
	c := &stream{TCPConn: conn}
	if err := converse(c); err != nil {
		fmt.Fprintf(os.Stderr, "connection of %v: %v\n", conn.RemoteAddr(), err)
	}
	conn.Close()
	s.sent.Add(c.sent)
	s.received.Add(c.received)
	s.open.Add(-1)
}

func converse(c *stream) error {
	var m message
	if err := c.receive(m[:]); err != nil {
		return err
	}
	kind, value := m[0], m.value()
	if err := c.send(m[:]); err != nil {
		return err
	}
	switch kind {
	case kindOnce:
		return nil
	case kindEcho:
		return echo(c)
	case kindUpload:
		n, err := c.receiveAll()
		if err != nil {
			return err
		}
		return c.send(newMessage(kindUpload, n)[:])
	case kindDownload:
		if err := c.receive(m[:]); err != nil {
			return err
		}
		_, err := c.sendFor(time.Duration(value))
		return err
	}
	return fmt.Errorf("unknown kind %q", kind)
}

// echo sends back everything until the end of file. A message may come in
// pieces, which go back in pieces.
func echo(c *stream) error {
	var b [4 << 10]byte
	for {
		n, err := c.Read(b[:])
		c.received += uint64(n)
		if n == 0 {
			return ignoreEOF(err)
		}
		n, err = c.Write(b[:n])
		c.sent += uint64(n)
		if err != nil {
			return err
		}
	}
}
