//go:build linux

package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// sockets returns the two ends of a TCP connection.
func sockets(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	destination, accept := collect(t, podAddress())
	conn, err := net.Dial("tcp", destination.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patienceForTests)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn), accept()
}

func newTestRecordConn(t testing.TB) (*recordConn, *net.TCPConn) {
	t.Helper()
	near, far := sockets(t)
	c, err := newRecordConn(near, &bufferPools{})
	if err != nil {
		t.Fatal(err)
	}
	return c, far
}

// record returns a record as it looks on the wire, with a body of size bytes.
func record(size int) []byte {
	return append([]byte{23, 3, 3, byte(size >> 8), byte(size)}, bytes.Repeat([]byte{byte(size)}, size)...)
}

func TestReadEndsAtRecords(t *testing.T) {
	c, far := newTestRecordConn(t)
	c.startRelay()
	p := make([]byte, 64<<10)
	if _, err := c.Read(p); err != error(errNoRecord) {
		t.Fatalf("with nothing there: %v", err)
	}
	small, large := record(100), record(maxRecordBody)
	write(t, far, string(small)+string(large)+string(small[:50]))
	for _, want := range [][]byte{small, large} {
		if err := c.awaitRecord(); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(p)
		if err != nil || !bytes.Equal(p[:n], want) {
			t.Fatalf("read %d bytes, %v; want a record of %d", n, err, len(want))
		}
	}
	if _, err := c.Read(p); err != error(errNoRecord) {
		t.Errorf("with half a record there: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- c.awaitRecord() }()
	write(t, far, string(small[50:]))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(p); err != nil || !bytes.Equal(p[:n], small) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if c.in != nil {
		t.Error("a buffer is held although it is empty")
	}
}

// FuzzReadRecords: whatever a stranger sends, in two pieces, tls.Conn gets it record by record, and no byte of one that is
// not complete.
func FuzzReadRecords(f *testing.F) {
	for _, seed := range []struct {
		data []byte
		cut  uint16
	}{
		{nil, 0}, {record(0), 3}, {slices.Concat(record(1), record(100), record(7)[:9]), 60}, {append(record(maxRecordBody), 22), 5},
		{[]byte("GET / HTTP/1.1\r\n\r\n"), 7}, {[]byte{23, 3, 3, 0xff, 0xff, 1}, 4}, {bytes.Repeat([]byte{22, 3, 1, 0, 0}, 100), 13},
	} {
		f.Add(seed.data, seed.cut)
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		c, far := newTestRecordConn(t)
		c.startRelay()
		cut = min(cut, uint16(min(len(data), math.MaxUint16)))
		go func() {
			for _, piece := range [][]byte{data[:cut], data[cut:]} {
				_, _ = far.Write(piece) // what does not arrive is missed below
			}
			_ = far.CloseWrite()
		}()
		p := make([]byte, 2*maxRecordBody)
		rest := data
		for {
			n, err := c.Read(p)
			want := firstRecord(rest)
			switch {
			case err == nil && (n != want || !bytes.Equal(p[:n], rest[:want])):
				t.Fatalf("read %x, want %x", p[:n], rest[:want])
			case err == nil:
				rest = rest[n:]
				continue
			case err == error(errNoRecord):
				err = c.awaitRecord()
			}
			if err != nil {
				if want > 0 || !errors.Is(err, errTruncated) {
					t.Fatalf("%v, with %x to come", err, rest)
				}
				return
			}
		}
	})
}

// firstRecord returns the length of what tls.Conn is to get of data first, 0 if more is to come before.
func firstRecord(data []byte) int {
	if len(data) < 5 {
		return 0
	}
	size := 5 + int(data[3])<<8 + int(data[4])
	if !slices.Contains([]byte{20, 21, 22, 23}, data[0]) || size > 5+maxRecordBody {
		return 5
	}
	if len(data) < size {
		return 0
	}
	return size
}

// While half of a record is waited for, no more than a record's buffer is held.
func TestWaitingHoldsASmallBuffer(t *testing.T) {
	c, far := newTestRecordConn(t)
	c.startRelay()
	c.pace.class = classBulk
	half := record(200)[:100]
	write(t, far, string(half))
	waiting := make(chan error, 1)
	go func() { waiting <- c.awaitRecord() }()
	if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, errTruncated) {
		t.Errorf("the end in the middle of a record: %v", err)
	}
	// One more look at a socket without data, as after a spurious wake-up.
	d, far := newTestRecordConn(t)
	d.startRelay()
	d.pace.class = classBulk
	write(t, far, string(half))
	if err := d.fill(); err != nil {
		t.Fatal(err)
	}
	if err := d.raw.Control(func(fd uintptr) {
		if d.fillOnce(fd) {
			t.Error("there was something to read")
		}
	}); err != nil {
		t.Fatal(err)
	}
	if d.in.class != classTiny || !bytes.Equal(d.in.b[d.r:d.w], half) {
		t.Errorf("holds a buffer of class %d with %d bytes", d.in.class, d.w-d.r)
	}
}

// Many records are decrypted at once, whatever their sizes and behind tickets, and the connection goes on as if they
// had not been.
func TestDecrypt(t *testing.T) {
	certificate := newAuthority(t).issue(t, []netip.Addr{podAddress()}, nil)
	server := &tls.Config{Certificates: []tls.Certificate{certificate}, DynamicRecordSizingDisabled: true}
	client := &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true}
	for _, dials := range []bool{true, false} {
		c, far := newTestRecordConn(t)
		secured, peer := tls.Client(c, client), tls.Server(far, server)
		if !dials {
			secured, peer = tls.Server(c, server), tls.Client(far, client)
		}
		want := must.Get(io.ReadAll(patternReader(1, 4<<20)))(t)
		sent := make(chan error, 1)
		go func() {
			err := peer.Handshake()
			sizes := mathrand.New(mathrand.NewPCG(1, 2))
			for rest, n := want, 1000; len(rest) > 0 && err == nil; {
				_, err = peer.Write(rest[:n])
				rest = rest[n:]
				n = min(len(rest), 1+sizes.IntN([]int{100, 5_000, 100_000}[sizes.IntN(3)]))
			}
			sent <- errors.Join(err, peer.CloseWrite())
		}()
		must.Do(t, secured.Handshake())
		must.Do(t, c.flush())
		c.startRelay()
		c.pace.class = classBulk
		// To begin with, the TLS connection holds the rest of a record whose place in the buffer is taken by others.
		for c.buffered() < 4*maxRecordBody {
			must.Do(t, c.fill())
		}
		got := make([]byte, 1)
		must.Get(io.ReadFull(secured, got))(t)
		must.Do(t, c.fill())
		more := true
		giveUpBuffers(secured)
		for {
			for !more && c.buffered() < 3*maxRecordBody && len(got)+c.buffered() < len(want) {
				must.Do(t, c.fill())
			}
			if !more {
				must.Do(t, c.awaitRecord())
			}
			buffered, waited := c.buffered(), !more
			b, n, err := c.decrypt(secured, nil)
			got, more = append(got, b.b[:n]...), err == nil
			if waited && c.buffered() == buffered {
				t.Fatalf("a record is there, and is not taken after %d bytes", len(got))
			}
			// What is lent next may be overwritten by whoever has it.
			clear(b.b)
			c.pools.put(b)
			if more || err == error(errNoRecord) {
				continue
			}
			if err != io.EOF {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
			break
		}
		must.Do(t, <-sent)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes came, other than the %d that were sent", len(got), len(want))
		}
		// The peer's alert is the last record, and nothing of the pools' is left with the TLS connection.
		if raw := fieldOf[bytes.Buffer](secured, tlsFields().raw); raw.Cap() > 2*maxRecordBody {
			t.Errorf("the TLS connection holds %d bytes", raw.Cap())
		}
	}
}

// What follows the last whole record is what it was, be it a part of one or none.
func TestDecryptLeavesTheRest(t *testing.T) {
	certificate := newAuthority(t).issue(t, []netip.Addr{podAddress()}, nil)
	for _, rest := range []string{"", "\x17\x03\x03", string(record(maxRecordBody)[:9000])} {
		c, far := newTestRecordConn(t)
		secured := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		large := strings.Repeat("x", 3*maxRecordPayload)
		go func() {
			peer := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate}, DynamicRecordSizingDisabled: true})
			_, _ = io.WriteString(peer, large) // what does not arrive is missed below
			_, _ = io.WriteString(far, rest)
		}()
		must.Do(t, secured.Handshake())
		must.Do(t, c.flush())
		c.startRelay()
		c.pace.class = classBulk
		for c.buffered() < sealedSize(len(large))+len(rest) {
			must.Do(t, c.fill())
		}
		for got := ""; got != large; {
			b, n, err := c.decrypt(secured, nil)
			if got += string(b.b[:n]); err != nil && err != error(errNoRecord) || len(got) > len(large) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			c.pools.put(b)
		}
		for c.buffered() < len(rest) {
			must.Do(t, c.fill())
		}
		left := ""
		if c.in != nil {
			left = string(c.in.b[c.r:c.w])
		}
		if left != rest {
			t.Errorf("%d bytes are left, %.20q, want %d", len(left), left, len(rest))
		}
	}
}

func TestWriteWaitsForFlush(t *testing.T) {
	c, far := newTestRecordConn(t)
	var want []byte
	for _, size := range []int{10, 5000, maxRecordBody, 1, 400 << 10, 3000} {
		part := bytes.Repeat([]byte{byte(size)}, size)
		want = append(want, part...)
	}
	received := make(chan []byte, 1)
	go func() {
		got, _ := io.ReadAll(far)
		received <- got
	}()
	if _, err := c.Write(want[:10]); err != nil {
		t.Fatal(err)
	}
	if c.pending != 10 {
		t.Errorf("%d bytes are kept, want 10", c.pending)
	}
	for rest := want[10:]; len(rest) > 0; {
		n := min(len(rest), 7001)
		if _, err := c.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	if c.out != nil {
		t.Error("a buffer is held although it is empty")
	}
	if err := onSocket(c.conn, shutdownWrite); err != nil {
		t.Fatal(err)
	}
	if got := <-received; !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, want %d", len(got), len(want))
	}
}

// TestSealBehindOthers: records that do not fit behind what is kept come whole all the same.
func TestSealBehindOthers(t *testing.T) {
	c, far, secured, _, reader := relayedRecords(t)
	received := make(chan []byte, 1)
	go func() {
		got, _, err := reader.read(t, far)
		if err != nil {
			t.Error(err)
		}
		received <- got
	}()
	var want []byte
	for _, size := range []int{1, 3_000, 9_000, sealPayload[classBulk], 20_000, sealPayload[classBulk], 17, sealPayload[classBulk] - 1} {
		b := must.Get(io.ReadAll(patternReader(byte(size), int64(size+1))))(t)
		want = append(want, b[:size]...)
		must.Do(t, c.seal(secured, b, size))
	}
	must.Do(t, c.flush())
	must.Do(t, onSocket(c.conn, shutdownWrite))
	if got := <-received; !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, other than the %d that were sealed", len(got), len(want))
	}
}

// TestSealAfterTheEnd: nothing follows a close_notify.
func TestSealAfterTheEnd(t *testing.T) {
	c, far, secured, _, reader := relayedRecords(t)
	must.Do(t, c.seal(secured, []byte("data\x00"), 4))
	must.Do(t, secured.CloseWrite())
	if err := c.seal(secured, []byte("more\x00"), 4); err == nil {
		t.Error("no error")
	}
	must.Do(t, c.flush())
	must.Do(t, onSocket(c.conn, shutdownWrite))
	if got, _, err := reader.read(t, far); string(got) != "data" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// The relay's reads and writes do not allocate buffers of their own.
func TestRelayDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("skipped: pools drop buffers at random under the race detector")
	}
	client, server := pair(t, nil)
	conn := client.dial(application(t, server.ip, echo))
	message := make([]byte, 1000)
	round := func() {
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(1000, round); n > 1 {
		t.Errorf("%v allocations for a message there and back", n)
	}
}

// A ticket or an alert may follow data at once, and must not keep it waiting.
func TestDataIsNotHeldBackByAnIncompleteRecord(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	destination, accept := collect(t, server.ip)
	s := newStranger(t, a, server)
	gate := &gatedConn{TCPConn: s.dial(server)}
	conn := tls.Client(gate, s.config)
	h := header{Destination: destination, Client: netip.AddrPortFrom(s.ip, api.PeerPort)}
	write(t, conn, string(appendHeader(nil, h)))
	far := accept()
	gate.hold = true
	write(t, conn, "first")
	write(t, conn, "second")
	// All of the first record and a part of the second one arrive.
	cut := len(gate.held) - 3
	if _, err := gate.TCPConn.Write(gate.held[:cut]); err != nil {
		t.Fatal(err)
	}
	expect(t, far, "first")
	if _, err := gate.TCPConn.Write(gate.held[cut:]); err != nil {
		t.Fatal(err)
	}
	expect(t, far, "second")
}

// gatedConn keeps what is written once hold is set.
type gatedConn struct {
	*net.TCPConn
	hold bool
	held []byte
}

func (g *gatedConn) Write(p []byte) (int, error) {
	if !g.hold {
		return g.TCPConn.Write(p)
	}
	g.held = append(g.held, p...)
	return len(p), nil
}
