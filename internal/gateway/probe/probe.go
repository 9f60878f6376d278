//go:build linux

package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// maxText bounds the line that goes over a connection, in bytes.
const maxText = 256

// events prints events, a line each.
type events struct {
	mu sync.Mutex
	w  io.Writer
}

func (e *events) print(event api.ProbeEvent) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return json.NewEncoder(e.w).Encode(event)
}

// Listen accepts connections at a free port of ip and sends each line back, until its input ends
// or ctx is done.
func Listen(ctx context.Context, ip netip.Addr, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := untilEnd(ctx, stdin)
	defer cancel()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	out := &events{w: stdout}
	if err := out.print(api.ProbeEvent{Event: api.ProbeListening, Local: addrPort(l.Addr())}); err != nil {
		return err
	}
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting a connection: %w", err)
		}
		open.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			// The other side reports how the connection ends.
			_, _ = io.Copy(conn, io.LimitReader(conn, maxText))
		})
	}
}

// Connect reads a line, connects to an address, sends the line, and waits for the echo. The
// connection stays open until the input ends, the other end closes it, or ctx is done. Events
// report what happens to the connection; the error is one of this side.
func Connect(ctx context.Context, to netip.AddrPort, stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReaderSize(stdin, maxText)
	text, err := in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("reading the text to send: %w", err)
	}
	line := string(text)
	ctx, cancel := untilEnd(ctx, in)
	defer cancel()
	out := &events{w: stdout}
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return out.print(api.ProbeEvent{Event: api.ProbeEnded, Remote: to, Error: err.Error()})
	}
	defer conn.Close()
	event := api.ProbeEvent{Local: addrPort(conn.LocalAddr()), Remote: addrPort(conn.RemoteAddr())}
	report := func(name string, err error) error {
		event.Event = name
		if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
			event.Error = err.Error()
		}
		return out.print(event)
	}
	if _, err := io.WriteString(conn, line); err != nil {
		return report(api.ProbeEnded, err)
	}
	if err := report(api.ProbeSent, nil); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	back := make([]byte, len(line))
	if _, err := io.ReadFull(conn, back); err != nil {
		return report(api.ProbeEnded, err)
	}
	if string(back) == line {
		if err := report(api.ProbeEchoed, nil); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, conn)
	return report(api.ProbeEnded, err)
}

// untilEnd returns a context that ends when r does.
func untilEnd(ctx context.Context, r io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, r)
		cancel()
	}()
	return ctx, cancel
}

func addrPort(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }
