// Command demo is the application of examples/demo.yaml: it serves a greeting
// over raw TCP and over HTTP, and greets its peer over both once a second. It
// knows nothing of encryption.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	tcpAddress  = ":9000"
	httpAddress = ":9080"
	interval    = time.Second
	timeout     = 5 * time.Second
)

func main() {
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("NAME"), os.Getenv("PEER")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, name, peer string) error {
	if name == "" || peer == "" {
		return errors.New("NAME and PEER must be set")
	}
	ln, err := net.Listen("tcp", tcpAddress)
	if err != nil {
		return err
	}
	greeting := fmt.Sprintf("greetings from %s", name)
	go serveTCP(ln, greeting+" over tcp")
	server := &http.Server{Addr: httpAddress, ReadHeaderTimeout: timeout, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			log.Printf("http: serving %s", r.RemoteAddr)
			fmt.Fprintln(w, greeting+" over http")
		})}
	go func() { log.Print(server.ListenAndServe()) }()

	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		report("tcp", greetTCP(ctx, net.JoinHostPort(peer, tcpAddress[1:]), greeting+" over tcp"))
		report("http", greetHTTP(ctx, "http://"+peer+httpAddress, greeting+" over http"))
		select {
		case <-ctx.Done():
			return server.Close()
		case <-ticker.C:
		}
	}
}

func report(what string, err error) {
	if err != nil {
		log.Printf("%s: %v", what, err)
	}
}

// serveTCP answers every line with the greeting.
func serveTCP(ln net.Listener, greeting string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			log.Print(err)
			return
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(timeout))
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				return
			}
			log.Printf("tcp: %s says %q", conn.RemoteAddr(), line[:len(line)-1])
			fmt.Fprintln(conn, greeting)
		}()
	}
}

func greetTCP(ctx context.Context, address, greeting string) error {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	fmt.Fprintln(conn, greeting)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no answer from %s: %w", address, err)
	}
	log.Printf("tcp: %s answers %q", conn.RemoteAddr(), answer[:len(answer)-1])
	return nil
}

func greetHTTP(ctx context.Context, url, greeting string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("X-Greeting", greeting)
	// A new connection every time, so that enabling a gateway shows at once.
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1024))
	if err != nil {
		return err
	}
	log.Printf("http: %s answers %q", url, body)
	return nil
}
