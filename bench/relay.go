//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

var errTooMuch = errors.New("more bytes than expected")

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// relayMain is the plain relay that the gateways are compared with: io.Copy
// between two TCP connections, which is splice(2), and nothing else.
func relayMain(args []string) int {
	ln, err := listen(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	target, err := net.ResolveTCPAddr("tcp", args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				fmt.Fprintln(os.Stderr, "accepting:", err)
				os.Exit(1)
			}
			go relay(conn, target)
		}
	}()
	return serveOrders(func(order) (outcome, error) { return outcome{}, nil })
}

func relay(conn *net.TCPConn, target *net.TCPAddr) {
	defer conn.Close()
	next, err := net.DialTCP("tcp", nil, target)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		conn.SetLinger(0)
		return
	}
	defer next.Close()
	var ways sync.WaitGroup
	ways.Go(func() { pass(next, conn) })
	pass(conn, next)
	ways.Wait()
}

// pass copies one way. A failure ends both ways, an end of file only this one.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.SetLinger(0)
		to.Close()
		from.SetLinger(0)
		from.Close()
		return
	}
	to.CloseWrite()
}
