// Command probe is the application of the cluster's own tests: a TCP server
// that tells clients their address and its own name, and the tools to look at
// things from inside a container that has no shell.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return serve(":8080")
	}
	switch args[0] {
	case "serve": // serve ADDRESS: as without a command, there
		return serve(args[1])
	case "get": // get ADDRESS: what the server there says
		conn, err := net.DialTimeout("tcp", args[1], 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, conn)
		return err
	case "lookup": // lookup NAME: its addresses
		found, err := net.LookupHost(args[1])
		fmt.Println(strings.Join(found, " "))
		return err
	case "cat": // cat FILE
		data, err := os.ReadFile(args[1])
		os.Stdout.Write(data)
		return err
	case "ls": // ls DIRECTORY
		entries, err := os.ReadDir(args[1])
		for _, entry := range entries {
			fmt.Println(entry.Name())
		}
		return err
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// serve answers every connection with one line, until told to end.
func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Println("serving on", listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		client, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		fmt.Fprintf(conn, "%s sees %s\n", name, client)
		conn.Close()
	}
}
