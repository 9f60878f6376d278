//go:build linux

package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// forger is the client of a TLS connection that writes whatever it likes under its keys (RFC 8446, sections 5.2, 5.3 and 7).
type forger struct {
	suite  uint16
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	number uint64
	wire   []byte
}

func (f *forger) hash() func() hash.Hash {
	if f.suite == tls.TLS_AES_256_GCM_SHA384 {
		return sha512.New384
	}
	return sha256.New
}

// derive is HKDF-Expand-Label with an empty context.
func (f *forger) derive(t testing.TB, label string, size int) []byte {
	t.Helper()
	info := append(binary.BigEndian.AppendUint16(nil, uint16(size)), byte(len("tls13 "+label)))
	return must.Get(hkdf.Expand(f.hash(), f.secret, string(append(info, "tls13 "+label+"\x00"...)), size))(t)
}

// use takes the keys of a secret.
func (f *forger) use(t testing.TB, secret []byte) {
	t.Helper()
	f.secret, f.number = secret, 0
	f.iv = f.derive(t, "iv", 12)
	if f.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		f.aead = must.Get(chacha20poly1305.New(f.derive(t, "key", chacha20poly1305.KeySize)))(t)
		return
	}
	size := 16
	if f.suite == tls.TLS_AES_256_GCM_SHA384 {
		size = 32
	}
	f.aead = must.Get(cipher.NewGCM(must.Get(aes.NewCipher(f.derive(t, "key", size)))(t)))(t)
}

// seal appends a record with content of a type, and padding.
func (f *forger) seal(kind byte, content []byte, padding int) {
	f.sealAs([]byte{23, 3, 3}, kind, content, padding)
}

// sealAs is seal for a record that begins otherwise.
func (f *forger) sealAs(start []byte, kind byte, content []byte, padding int) {
	inner := append(append(bytes.Clone(content), kind), make([]byte, padding)...)
	header := binary.BigEndian.AppendUint16(start, uint16(len(inner)+f.aead.Overhead()))
	f.wire = f.aead.Seal(append(f.wire, header...), f.nonce(), inner, header)
}

// nonce returns that of the next record.
func (f *forger) nonce() []byte {
	nonce := bytes.Clone(f.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, f.number) {
		nonce[len(nonce)-8+i] ^= b
	}
	f.number++
	return nonce
}

const (
	kindAlert     = 21
	kindHandshake = 22
	kindData      = 23
)

// step writes what one step of a program stands for.
func (f *forger) step(t testing.TB, op, arg byte) {
	t.Helper()
	content := func(n int) []byte { return bytes.Repeat([]byte{op, arg, byte(f.number)}, n/3+1)[:n] }
	size := int(arg) << 6
	switch op % 21 {
	case 0, 1, 2:
		f.seal(kindData, content(maxRecordPayload), 0)
	case 3:
		f.seal(kindData, content(size+1), 0)
	case 4:
		for i := range int(arg) {
			f.seal(kindData, content(i+1), 0)
		}
	case 5:
		f.seal(kindData, nil, 0)
	case 6:
		f.seal(kindData, content(size/2), size/2)
	case 7, 8: // a key update, which wants one in return or not
		update := []byte{24, 0, 0, 1, op % 21 & 1}
		if cut := int(arg) % 8; cut > 0 && cut < len(update) {
			f.seal(kindHandshake, update[:cut], 0)
			update = update[cut:]
		}
		f.seal(kindHandshake, update, 0)
		f.use(t, f.derive(t, "traffic upd", len(f.secret)))
	case 9: // too much in one record
		f.seal(kindData, content(maxRecordPayload+1+int(arg)), 0)
	case 10: // a wrong tag
		f.seal(kindData, content(size+1), 0)
		f.wire[len(f.wire)-1-int(arg)%16] ^= 1
	case 11: // other bytes than were sealed
		f.seal(kindData, content(size+1), 0)
		f.wire[len(f.wire)-17] ^= 0x80
	case 12:
		f.seal(kindAlert, []byte{1, 0}, 0) // close_notify
	case 13:
		f.seal(kindAlert, []byte{1, 90}, 0) // user_canceled
	case 14:
		f.seal(kindAlert, []byte{2, arg}, 0)
	case 15:
		f.wire = append(f.wire, 20, 3, 3, 0, 1, arg) // in the clear
	case 16:
		f.wire = append(f.wire, content(int(arg))...)
	case 17:
		f.wire = append(f.wire, record(0)...)
	case 18: // another version
		f.sealAs([]byte{23, 3, arg}, kindData, content(size+1), 0)
	case 19: // another type outside
		f.sealAs([]byte{22, 3, 3}, kindData, content(size+1), 0)
	case 20: // a part of a message
		f.seal(kindHandshake, []byte{24, 0}, 0)
	}
}

// keyLog has the secrets of a client.
type keyLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *keyLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// secret returns the first secret of the traffic of an end, CLIENT or SERVER.
func (l *keyLog) secret(t testing.TB, end string) []byte {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if words := strings.Fields(line); words[0] == end+"_TRAFFIC_SECRET_0" {
			return must.Get(hex.DecodeString(words[2]))(t)
		}
	}
	t.Fatal("no secret")
	return nil
}

// open returns the type and the content of the next record from r.
func (f *forger) open(t testing.TB, r io.Reader) (kind byte, content []byte, err error) {
	t.Helper()
	header := make([]byte, recordHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	if content, err = f.aead.Open(nil, f.nonce(), body, header); err != nil {
		return 0, nil, err
	}
	last := len(content) - 1
	return content[last], content[:last], nil
}

// read returns the data from r until its end, and follows key updates.
func (f *forger) read(t testing.TB, r io.Reader) (data []byte, updates int, err error) {
	t.Helper()
	for {
		kind, content, err := f.open(t, r)
		switch {
		case err == io.EOF:
			return data, updates, nil
		case err != nil:
			return data, updates, err
		case kind == kindData:
			data = append(data, content...)
		case kind == kindHandshake && len(content) == 5 && content[0] == 24:
			updates++
			f.use(t, f.derive(t, "traffic upd", len(f.secret)))
		case kind == kindAlert:
		default:
			return data, updates, fmt.Errorf("a record of type %d: %x", kind, content)
		}
	}
}

// forge shakes hands with secured, which reads from the other end of far, and returns what program stands for on the wire, and
// who reads what secured writes.
func forge(t testing.TB, secured *tls.Conn, far net.Conn, program []byte) (wire []byte, reader *forger) {
	t.Helper()
	f, reader := newForgers(t, secured, far)
	for ; len(program) >= 2; program = program[2:] {
		f.step(t, program[0], program[1])
	}
	return f.wire, reader
}

// newForgers shakes hands, and returns who writes to secured, and who reads from it.
func newForgers(t testing.TB, secured *tls.Conn, far net.Conn) (f, reader *forger) {
	t.Helper()
	log := &keyLog{}
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: log, CurvePreferences: []tls.CurveID{tls.X25519}})
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	must.Do(t, secured.Handshake())
	must.Do(t, <-done)
	f, reader = &forger{suite: client.ConnectionState().CipherSuite}, &forger{suite: client.ConnectionState().CipherSuite}
	f.use(t, log.secret(t, "CLIENT"))
	reader.use(t, log.secret(t, "SERVER"))
	return f, reader
}

// cutConn is a socket whose end is errTruncated, as a recordConn has it.
type cutConn struct{ net.Conn }

func (c cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = errTruncated
	}
	return n, err
}

// readPlainly returns what crypto/tls alone makes of a program.
func readPlainly(t testing.TB, config *tls.Config, program []byte) (got []byte, err error) {
	t.Helper()
	near, far := sockets(t)
	secured := tls.Server(cutConn{near}, config)
	wire, _ := forge(t, secured, far, program)
	go func() {
		_, _ = far.Write(wire) // it may be refused before its end
		_ = far.CloseWrite()
	}()
	for b := make([]byte, 1<<20); err == nil; {
		var n int
		n, err = secured.Read(b)
		got = append(got, b[:n]...)
	}
	return got, err
}

// readByRecords returns what a recordConn makes of it, whose bytes come in pieces of a size, and which waits for as many as given
// before it decrypts. It reads as unseal does.
func readByRecords(t testing.TB, config *tls.Config, program []byte, piece int, waits []int) (got []byte, direct int, err error) {
	t.Helper()
	c, far := newTestRecordConn(t)
	secured := tls.Server(c, config)
	wire, reader := forge(t, secured, far, program)
	must.Do(t, c.flush())
	c.startRelay()
	giveUpBuffers(secured)
	c.pace.class = classBulk
	go func() {
		for rest := wire; len(rest) > 0; {
			n := min(piece, len(rest))
			if _, err := far.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		_ = far.CloseWrite()
	}()
	// The other direction goes on meanwhile, key updates of it included.
	var sent []byte
	done, wrote, received := make(chan struct{}), make(chan struct{}), make(chan []byte, 1)
	go func() {
		got, updates, err := reader.read(t, far)
		if err != nil {
			t.Errorf("program %x: after %d bytes and %d key updates of the other direction: %v", program, len(got), updates, err)
		}
		received <- got
	}()
	go func() {
		defer close(wrote)
		for size := 1; ; size = size*7%100_003 + 1 {
			select {
			case <-done:
				return
			default:
			}
			b := c.pools.get(classFor(size + 1))
			for i := range size {
				b.b[i] = byte(size + i)
			}
			part := bytes.Clone(b.b[:size])
			if c.seal(secured, b.b, size) != nil || c.flush() != nil {
				return
			}
			sent = append(sent, part...)
			c.pools.put(b)
		}
	}()
	defer func() {
		close(done)
		<-wrote
		must.Do(t, onSocket(c.conn, shutdownWrite))
		if got := <-received; !bytes.Equal(got, sent) {
			t.Errorf("program %x: %d bytes were sealed, other than the %d that came", program, len(sent), len(got))
		}
	}()
	for turn, more := 0, true; ; turn++ {
		if !more {
			// A deadline in the middle of a record costs nothing.
			must.Do(t, c.conn.SetReadDeadline(past()))
			if err := c.awaitRecord(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return got, direct, err
			}
			must.Do(t, c.conn.SetReadDeadline(time.Time{}))
			for c.buffered() < waits[turn%len(waits)] && c.fill() == nil {
			}
			if err := c.awaitRecord(); err != nil {
				return got, direct, err
			}
		}
		b, n, readErr := c.decrypt(secured, nil)
		raw := fieldOf[bytes.Buffer](secured, tlsFields().raw)
		if n > 0 && raw.Cap() == 0 {
			direct++
		}
		got = append(got, b.b[:n]...)
		// Whoever has it next may overwrite it.
		clear(b.b)
		c.pools.put(b)
		more = readErr == nil
		if raw.Cap() > 2*maxRecordBody {
			t.Fatalf("the TLS connection holds %d bytes", raw.Cap())
		}
		if readErr != nil && readErr != error(errNoRecord) {
			return got, direct, readErr
		}
	}
}

// relayedRecords returns a recordConn whose handshake is over, the other end of its socket, its TLS connection, and who writes to
// that and reads from it.
func relayedRecords(t testing.TB) (c *recordConn, far *net.TCPConn, secured *tls.Conn, f, reader *forger) {
	t.Helper()
	c, far = newTestRecordConn(t)
	secured = tls.Server(c, forgersServer(t))
	f, reader = newForgers(t, secured, far)
	must.Do(t, c.flush())
	c.startRelay()
	return c, far, secured, f, reader
}

// sameReading compares the two, and returns how often records were decrypted without tls.Conn.
func sameReading(t testing.TB, config *tls.Config, program []byte, piece int, waits []int) int {
	t.Helper()
	want, wantErr := readPlainly(t, config, program)
	got, direct, err := readByRecords(t, config, program, piece, waits)
	if !bytes.Equal(got, want) {
		t.Errorf("program %x in pieces of %d: got %d bytes, want %d", program, piece, len(got), len(want))
	}
	if errors.Is(err, errTruncated) && errors.Is(wantErr, errTruncated) {
		return direct
	}
	if err.Error() != wantErr.Error() {
		t.Errorf("program %x in pieces of %d: got %v, want %v", program, piece, err, wantErr)
	}
	return direct
}

func forgersServer(t testing.TB) *tls.Config {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue(t, []netip.Addr{podAddress()}, nil)}, SessionTicketsDisabled: true}
}

// TestDecryptAsTLSDoes: whatever a peer writes under its keys, and however it comes, the application gets the bytes and the
// connection the error that crypto/tls alone would give, and nothing of a record whose tag is wrong.
func TestDecryptAsTLSDoes(t *testing.T) {
	config := forgersServer(t)
	bulk := bytes.Repeat([]byte{0, 1}, 6)
	after := func(steps ...byte) []byte { return append(append(bytes.Clone(bulk), steps...), bulk...) }
	direct := 0
	for name, program := range map[string][]byte{
		"data":                         bulk,
		"a key update":                 after(7, 0),
		"a key update that wants one":  after(8, 0),
		"a key update in two records":  after(7, 3),
		"many key updates":             after(7, 0, 3, 9, 8, 0, 3, 9, 7, 1, 8, 2),
		"an empty record":              after(5, 0),
		"many empty records":           after(bytes.Repeat([]byte{5, 0}, 40)...),
		"empty ones among data":        after(bytes.Repeat([]byte{5, 0, 3, 1}, 40)...),
		"another version":              after(18, 1),
		"another type":                 after(19, 0),
		"a record that is padding":     after(6, 0, 6, 100),
		"small ones":                   after(4, 255),
		"one that is too large":        after(9, 0),
		"one that is much too large":   after(9, 250),
		"a wrong tag":                  after(10, 200),
		"a wrong byte":                 after(11, 200),
		"an end and more":              after(12, 0),
		"an end":                       append(bytes.Clone(bulk), 12, 0),
		"a warning":                    after(13, 0),
		"an alert":                     after(14, 42),
		"change_cipher_spec":           after(15, 1),
		"no record":                    after(16, 200),
		"a record without anything":    after(17, 0),
		"a part of a message and data": after(20, 0),
	} {
		for _, piece := range []int{1 << 20, 16000} {
			for _, waits := range [][]int{{0}, {500 << 10}, {30_000, 100_000, 0}} {
				t.Run(fmt.Sprint(name, " ", piece, waits), func(t *testing.T) { direct += sameReading(t, config, program, piece, waits) })
			}
		}
	}
	if direct == 0 {
		t.Error("always by tls.Conn")
	}
	// Every place at which a read can end.
	small := []byte{3, 0, 7, 0, 3, 1, 5, 0, 8, 2, 3, 1, 12, 0}
	for piece := 1; piece < 40; piece++ {
		sameReading(t, config, small, piece, []int{0})
	}
}

// TestEmptyRecordsAmongData: what crypto/tls bounds is empty records in a row, also where data between them does not pass it.
func TestEmptyRecordsAmongData(t *testing.T) {
	c, far, secured, f, _ := relayedRecords(t)
	for i := range 100 {
		f.seal(kindData, []byte("data"), 0)
		f.seal(kindData, nil, 0)
		must.Get(far.Write(f.wire))(t)
		for c.buffered() < len(f.wire) {
			must.Do(t, c.fill())
		}
		f.wire = nil
		b, n, err := c.decrypt(secured, nil)
		if string(b.b[:n]) != "data" || err != error(errNoRecord) {
			t.Fatalf("after %d: got %q, %v", i, b.b[:n], err)
		}
		c.pools.put(b)
	}
}

// TestDecryptBehindMuch: what has no room behind what is held comes with the next call.
func TestDecryptBehindMuch(t *testing.T) {
	c, far, secured, f, _ := relayedRecords(t)
	want := must.Get(io.ReadAll(patternReader(1, int64(sealPayload[classBulk]))))(t)
	for rest := want; len(rest) > 0; rest = rest[maxRecordPayload:] {
		f.seal(kindData, rest[:maxRecordPayload], 0)
	}
	go func() { _, _ = far.Write(f.wire) }() // what does not arrive is missed below
	c.pace.class = classBulk
	for c.buffered() < len(f.wire) {
		must.Do(t, c.fill())
	}
	held := make([]byte, 30_000)
	var got []byte
	for err := error(nil); err == nil; held = nil {
		var b *buffer
		var n int
		b, n, err = c.decrypt(secured, held)
		got = append(got, b.b[len(held):n]...)
		c.pools.put(b)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, other than the %d that were sent", len(got), len(want))
	}
}

// FuzzDecrypt is that for programs that nobody has thought of.
func FuzzDecrypt(f *testing.F) {
	config := forgersServer(f)
	random := mathrand.New(mathrand.NewPCG(3, 4))
	for range 40 {
		program := bytes.Repeat([]byte{0, 0}, 1+random.IntN(8))
		for range random.IntN(21) {
			program = append(program, byte(random.IntN(21)), byte(random.IntN(256)))
		}
		f.Add(program, uint16(random.IntN(1<<16)), uint16(random.IntN(1<<16)))
	}
	f.Fuzz(func(t *testing.T, program []byte, piece, wait uint16) {
		program = program[:min(len(program), 80)]
		sameReading(t, config, program, max(100, int(piece)), []int{int(wait) << 3, int(wait), 0})
	})
}
