package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// result is what a client prints.
type result = appreport.Result

func client(ctx context.Context, verb string, args []string) (result, error) {
	run, ok := map[string]func(context.Context, []string) (result, error){
		"talk": talk, "get": get, "lookup": lookup, "talk6": talk6, "whose": whose, "steady": steady, "datagram": datagram, "established": established, "mapped": mapped, "first": first, "halfclose": halfClose,
		"concurrent": concurrent, "socket": bySocket, "rings": rings, "raw": raw, "converse": converse, "sequence": sequence, "download": download, "upload": upload, "crash": crash,
	}[verb]
	if !ok {
		return result{}, fmt.Errorf("unknown command %q", verb)
	}
	return run(ctx, args)
}

// dialTimeout bounds connect(2), which tries for two minutes where SYNs are
// dropped: by default, it leaves time for two retransmissions.
var dialTimeout = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("DIAL_TIMEOUT")); err == nil {
		return d
	}
	return 5 * time.Second
}()

func dial(ctx context.Context, network, address string) (*net.TCPConn, result, error) {
	return dialWithin(ctx, dialTimeout, network, address)
}

// dialWithin is dial with another bound; 0 is none but that of ctx.
func dialWithin(ctx context.Context, timeout time.Duration, network, address string) (*net.TCPConn, result, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, result{NotPermitted: errors.Is(err, syscall.EPERM)}, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return conn.(*net.TCPConn), result{Local: conn.LocalAddr().String(), Peer: conn.RemoteAddr().String()}, nil
}

// talk ADDRESS TEXT: sends a line, half-closes, and reads all that comes back.
func talk(ctx context.Context, args []string) (result, error) {
	conn, r, err := dial(ctx, "tcp", args[0])
	if err != nil {
		return r, err
	}
	defer conn.Close()
	return exchange(conn, r, args[1])
}

// get URL: the answer to an HTTP request, and as the count its code.
func get(ctx context.Context, args []string) (result, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return result{}, err
	}
	// A connection that cannot be made ends early.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext}}
	response, err := client.Do(request)
	if err != nil {
		return result{}, err
	}
	defer response.Body.Close()
	received, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return result{Received: string(received), Count: response.StatusCode}, err
}

// lookup NETWORK NAME SERVER...: the IPv4 addresses of a name, of which each DNS server must
// know the same. Over udp it asks again over TCP where the answer is too large, as every
// resolver does.
func lookup(ctx context.Context, args []string) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	for i, server := range args[2:] {
		resolver := net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			if args[0] == "tcp" {
				network = "tcp"
			}
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, server)
		}}
		found, err := resolver.LookupNetIP(ctx, "ip4", args[1])
		if err != nil {
			return r, fmt.Errorf("from %s: %w", server, err)
		}
		var texts []string
		for _, ip := range found {
			texts = append(texts, ip.String())
		}
		text := strings.Join(texts, " ")
		if i > 0 && text != r.Received {
			return r, fmt.Errorf("from %s: %s", server, text)
		}
		r = result{Received: text, Count: len(found)}
	}
	return r, nil
}

// talk6 ADDRESS TEXT: talk over IPv6, also when a name has both families.
func talk6(ctx context.Context, args []string) (result, error) {
	conn, r, err := dial(ctx, "tcp6", args[0])
	if err != nil {
		return r, err
	}
	defer conn.Close()
	return exchange(conn, r, args[1])
}

func exchange(conn *net.TCPConn, r result, text string) (result, error) {
	if _, err := io.WriteString(conn, text+"\n"); err != nil {
		return r, err
	}
	// Of a connection that was reset meanwhile, reading tells so, and not this.
	if err := conn.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return r, err
	}
	received, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	r.Received = string(received)
	return r, err
}

// mapped ADDRESS TEXT: like talk, from an IPv6 socket to the v4-mapped address,
// as Java does.
func mapped(ctx context.Context, args []string) (result, error) {
	target, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return result{}, err
	}
	// Go itself would use an IPv4 socket.
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return result{}, err
	}
	to := &syscall.SockaddrInet6{Port: int(target.Port()), Addr: target.Addr().As16()}
	if err := syscall.Connect(fd, to); err != nil {
		syscall.Close(fd)
		return result{NotPermitted: errors.Is(err, syscall.EPERM)}, err
	}
	peer, err := syscall.Getpeername(fd)
	if err != nil {
		return result{}, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	r := result{Local: conn.LocalAddr().String()}
	if p, ok := peer.(*syscall.SockaddrInet6); ok {
		r.Peer = netip.AddrPortFrom(netip.AddrFrom16(p.Addr), uint16(p.Port)).String()
	}
	return exchange(conn.(*net.TCPConn), r, args[1])
}

// whose ADDRESS N: makes N connections to portServerFirst and lists the
// addresses that the servers have themselves.
func whose(ctx context.Context, args []string) (result, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return result{}, err
	}
	var servers []string
	for range n {
		r, err := first(ctx, []string{args[0], "whose"})
		if err != nil {
			return r, err
		}
		var client, server string
		if _, err := fmt.Sscanf(r.Received, "hello %s from %s", &client, &server); err != nil {
			return r, err
		}
		host, _, err := net.SplitHostPort(server)
		if err != nil {
			return r, err
		}
		servers = append(servers, host)
	}
	return result{Received: strings.Join(servers, " "), Count: n}, nil
}

// steadyInterval is the pause between the lines of steady.
const steadyInterval = 100 * time.Millisecond

// steady ADDRESS N: exchanges N lines over one connection, with pauses.
func steady(ctx context.Context, args []string) (result, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return result{}, err
	}
	conn, r, err := dial(ctx, "tcp", args[0])
	if err != nil {
		return r, err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for i := range n {
		text := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(conn, text); err != nil {
			return r, err
		}
		if got, err := reader.ReadString('\n'); err != nil || got != text {
			return r, fmt.Errorf("line %d: received %q: %w", i, got, err)
		}
		r.Count++
		time.Sleep(steadyInterval)
	}
	return r, nil
}

// tcpEstablished is the state in /proc/net/tcp (include/net/tcp_states.h).
const tcpEstablished = "01"

// established PORT: counts the established connections to a local port.
func established(_ context.Context, args []string) (result, error) {
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return result{}, err
	}
	var r result
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return r, err
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > 3 && fields[3] == tcpEstablished && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
				r.Count++
			}
		}
	}
	return r, nil
}

// datagram ADDRESS TEXT: sends one datagram.
func datagram(ctx context.Context, args []string) (result, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", args[0])
	if err != nil {
		return result{NotPermitted: errors.Is(err, syscall.EPERM)}, err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, args[1])
	return result{NotPermitted: errors.Is(err, syscall.EPERM)}, err
}

// first ADDRESS TEXT: reads a line before it sends one.
func first(ctx context.Context, args []string) (result, error) {
	conn, r, err := dial(ctx, "tcp", args[0])
	if err != nil {
		return r, err
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	greeting, err := reader.ReadString('\n')
	if err != nil {
		return r, err
	}
	if _, err := io.WriteString(conn, args[1]+"\n"); err != nil {
		return r, err
	}
	rest, err := io.ReadAll(reader)
	r.Received = greeting + string(rest)
	return r, err
}

// halfclose ADDRESS BYTES: sends, half-closes, and only then gets the answer.
func halfClose(ctx context.Context, args []string) (result, error) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return result{}, err
	}
	conn, r, err := dial(ctx, "tcp", args[0])
	if err != nil {
		return r, err
	}
	defer conn.Close()
	if _, err := io.Copy(conn, content(contentSeed, n)); err != nil {
		return r, err
	}
	if err := conn.CloseWrite(); err != nil {
		return r, err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return r, err
	}
	r.Received = string(answer)
	return checkAnswer(r, n)
}

// checkAnswer compares a "<bytes> <hash>" line with what was sent.
func checkAnswer(r result, n int64) (result, error) {
	sum, _, err := hash(content(contentSeed, n))
	r.Bytes = n
	r.Equal = r.Received == fmt.Sprintf("%d %s\n", n, sum)
	return r, err
}

// concurrent ADDRESS N: opens N connections at once, and uses each only when
// all are open.
func concurrent(ctx context.Context, args []string) (result, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return result{}, err
	}
	var open, done sync.WaitGroup
	open.Add(n)
	errs := make(chan error, n)
	for i := range n {
		done.Go(func() {
			// A busy machine takes its time for many at once.
			conn, r, err := dialWithin(ctx, 0, "tcp", args[0])
			open.Done()
			if err != nil {
				errs <- err
				return
			}
			defer conn.Close()
			open.Wait()
			text := fmt.Sprintf("connection %d", i)
			if r, err = exchange(conn, r, text); err == nil && r.Received != text+"\n" {
				err = fmt.Errorf("connection %d received %q", i, r.Received)
			}
			if err != nil {
				errs <- err
			}
		})
	}
	done.Wait()
	close(errs)
	return result{Count: n - len(errs)}, <-errs
}

// sequence ADDRESS N: makes N connections, one after the other.
func sequence(ctx context.Context, args []string) (result, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return result{}, err
	}
	for i := range n {
		conn, r, err := dial(ctx, "tcp", args[0])
		if err == nil {
			text := fmt.Sprintf("connection %d", i)
			if r, err = exchange(conn, r, text); err == nil && r.Received != text+"\n" {
				err = fmt.Errorf("received %q", r.Received)
			}
			conn.Close()
		}
		if err != nil {
			return result{Count: i}, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return result{Count: n}, nil
}

// download URL BYTES: fetches the content and compares its hash.
func download(ctx context.Context, args []string) (result, error) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return result{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0]+"/content?bytes="+args[1], nil)
	if err != nil {
		return result{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return result{}, err
	}
	defer response.Body.Close()
	got, size, err := hash(response.Body)
	if err != nil {
		return result{}, err
	}
	want, _, err := hash(content(contentSeed, n))
	return result{Bytes: size, Equal: got == want && size == n}, err
}

// upload URL BYTES: sends the content and compares the hash that comes back.
func upload(ctx context.Context, args []string) (result, error) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return result{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, args[0]+"/hash", content(contentSeed, n))
	if err != nil {
		return result{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return result{}, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return result{}, err
	}
	return checkAnswer(result{Received: string(answer)}, n)
}

// crash URL: ends the application there.
func crash(ctx context.Context, args []string) (result, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, args[0]+"/crash", nil)
	if err != nil {
		return result{}, err
	}
	// The connection ends without an answer.
	if response, err := http.DefaultClient.Do(request); err == nil {
		response.Body.Close()
	}
	return result{}, nil
}
