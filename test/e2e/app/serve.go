package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
)

// serveCommand is "app serve [--linger]". An application that lingers ignores
// SIGTERM, like one that has work to finish, and ends by "app exit".
func serveCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	linger := flags.Bool("linger", false, "ignore SIGTERM")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *linger {
		context.AfterFunc(ctx, func() { log.Print("lingering after SIGTERM") })
		ctx = context.WithoutCancel(ctx)
	}
	ctx, exit := context.WithCancel(ctx)
	defer exit()
	return serve(ctx, exit)
}

// serve runs all servers until ctx is done or one of them fails. exit is called
// when a client asks for the end.
func serve(ctx context.Context, exit func()) error {
	control := trafficControl{served: &served{}}
	mux := handler(exit)
	control.register(mux)
	failed := make(chan error, 7)
	for port, handle := range map[int]func(*net.TCPConn) error{
		portEcho: echo, portServerFirst: serverFirst, portCount: count, portTraffic: control.served.handle, portPostgres: postgres,
	} {
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		go func() { failed <- accept(ln, handle) }()
	}
	go func() { failed <- http.ListenAndServe(":"+strconv.Itoa(portHTTP), mux) }()
	go func() { failed <- healthServer().ListenAndServe() }()
	log.Print("serving")
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func accept(ln net.Listener, handle func(*net.TCPConn) error) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := handle(conn.(*net.TCPConn)); err != nil {
				log.Printf("%s: %v", conn.RemoteAddr(), err)
			}
		}()
	}
}

func echo(c *net.TCPConn) error {
	if _, err := io.Copy(c, c); err != nil {
		return err
	}
	return c.CloseWrite()
}

func serverFirst(c *net.TCPConn) error {
	if _, err := fmt.Fprintf(c, "hello %s from %s\n", c.RemoteAddr(), c.LocalAddr()); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = io.WriteString(c, "you said "+line)
	return err
}

func count(c *net.TCPConn) error {
	sum, n, err := hash(c)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "%d %s\n", n, sum)
	return err
}

// postgres is as much of a PostgreSQL server as psql and JDBC need to connect and to send a query. Every
// message is a byte that says what it is, four bytes of its length without that byte, and the rest; the
// client's first one lacks the byte.
func postgres(c *net.TCPConn) error {
	read := func() error {
		var length uint32
		if err := binary.Read(c, binary.BigEndian, &length); err != nil {
			return err
		}
		_, err := io.CopyN(io.Discard, c, int64(length)-4)
		return err
	}
	const ready = "Z\x00\x00\x00\x05I"
	if err := read(); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "R\x00\x00\x00\x08\x00\x00\x00\x00"+ready); err != nil { // no password
		return err
	}
	for {
		var kind [1]byte
		if _, err := io.ReadFull(c, kind[:]); err != nil || kind[0] == 'X' {
			return err
		}
		if err := read(); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "C\x00\x00\x00\x0dANSWERED\x00"+ready); err != nil {
			return err
		}
	}
}

func hash(r io.Reader) (sum string, n int64, err error) {
	h := sha256.New()
	n, err = io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// content returns n bytes that depend on seed alone.
func content(seed uint64, n int64) io.Reader {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// contentSeed is what both sides of a transfer use.
const contentSeed = 42

// healthServer answers every gRPC health check with SERVING. The protocol is
// one message over HTTP/2 without TLS: a byte for "not compressed", four bytes
// of length, and field 1 of the message with the value 1.
func healthServer() *http.Server {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /grpc.health.v1.Health/Check", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write([]byte{0, 0, 0, 0, 2, 0x08, 0x01})
		w.Header().Set("Grpc-Status", "0")
	})
	return &http.Server{Addr: ":" + strconv.Itoa(portGRPC), Handler: mux, Protocols: &protocols}
}

func handler(exit func()) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /content", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		io.Copy(w, content(contentSeed, n))
	})
	mux.HandleFunc("POST /hash", func(w http.ResponseWriter, r *http.Request) {
		sum, n, err := hash(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %s\n", n, sum)
	})
	// A crash of the application, as the kubelet sees it.
	mux.HandleFunc("POST /crash", func(http.ResponseWriter, *http.Request) { os.Exit(1) })
	mux.HandleFunc("POST /exit", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "exiting")
		http.NewResponseController(w).Flush()
		exit()
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s, you sent %s\n", r.RemoteAddr, r.Header.Get("X-Canary"))
	})
	return mux
}
