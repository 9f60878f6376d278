//go:build linux

package proxy

import (
	"bytes"
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"reflect"
	"sync"
	"unsafe"
)

// Once a TLS connection is relayed, the records of data are sealed and opened here, with the ciphers and sequence numbers
// of the tls.Conn: from one buffer into another, where tls.Conn copies each byte twice and takes each record
// alone. All else is up to tls.Conn: the handshake, key updates, tickets, alerts, the end, and every record that is not what it
// should be. Both take turns, record by record, because there is one sequence number. A record that is not opened here is as it
// was, so that tls.Conn says what is wrong with it.

// contentData is the type of a record of data, and contentVersion what stands where its version was (RFC 8446, 5.1 and 5.2).
const (
	contentData    = 23
	contentVersion = tls.VersionTLS12
)

// fields is where the fields of a tls.Conn are that are used here, as offsets in bytes.
type fields struct {
	in, out                  half
	input, raw, hand, ekm    uintptr
	retries, closeNotifySent uintptr
}

// exporter is what ExportKeyingMaterial calls.
type exporter = func(label string, context []byte, length int) ([]byte, error)

// half is where those of a direction are.
type half struct{ mu, err, version, cipher, seq uintptr }

// tlsFields returns where the fields are, or nil if this Go has others. Then tls.Conn does everything.
var tlsFields = sync.OnceValue(func() *fields {
	found := true
	at := func(t reflect.Type, name string, want reflect.Type) uintptr {
		field, ok := t.FieldByName(name)
		found = found && ok && field.Type == want
		return field.Offset
	}
	t := reflect.TypeFor[tls.Conn]()
	direction := func(name string) (h half) {
		field, ok := t.FieldByName(name)
		if !ok || field.Type.Kind() != reflect.Struct {
			found = false
			return h
		}
		h = half{
			mu: at(field.Type, "Mutex", reflect.TypeFor[sync.Mutex]()), err: at(field.Type, "err", reflect.TypeFor[error]()),
			version: at(field.Type, "version", reflect.TypeFor[uint16]()),
			cipher:  at(field.Type, "cipher", reflect.TypeFor[any]()), seq: at(field.Type, "seq", reflect.TypeFor[[8]byte]()),
		}
		for _, offset := range []*uintptr{&h.mu, &h.err, &h.version, &h.cipher, &h.seq} {
			*offset += field.Offset
		}
		return h
	}
	f := &fields{
		in: direction("in"), out: direction("out"),
		input: at(t, "input", reflect.TypeFor[bytes.Reader]()), raw: at(t, "rawInput", reflect.TypeFor[bytes.Buffer]()),
		hand: at(t, "hand", reflect.TypeFor[bytes.Buffer]()), ekm: at(t, "ekm", reflect.TypeFor[exporter]()),
		retries:         at(t, "retryCount", reflect.TypeFor[int]()),
		closeNotifySent: at(t, "closeNotifySent", reflect.TypeFor[bool]()),
	}
	if !found {
		return nil
	}
	return f
})

// fieldOf returns a field of t.
func fieldOf[T any](t *tls.Conn, offset uintptr) *T {
	return (*T)(unsafe.Add(unsafe.Pointer(t), offset))
}

// lock locks a direction of t, and returns its cipher, or nil if there is none that can be used here.
func (h *half) lock(t *tls.Conn) cipher.AEAD {
	fieldOf[sync.Mutex](t, h.mu).Lock()
	c, ok := (*fieldOf[any](t, h.cipher)).(cipher.AEAD)
	if !ok || *fieldOf[error](t, h.err) != nil || *fieldOf[uint16](t, h.version) != tls.VersionTLS13 ||
		c.NonceSize() != len(h.number(t)) || c.Overhead() != recordOverhead-recordHeader-1 {
		return nil
	}
	return c
}

func (h *half) unlock(t *tls.Conn) { fieldOf[sync.Mutex](t, h.mu).Unlock() }

// number returns the sequence number of the next record.
func (h *half) number(t *tls.Conn) []byte { return fieldOf[[8]byte](t, h.seq)[:] }

// step ends a record.
func (h *half) step(t *tls.Conn) {
	number := h.number(t)
	binary.BigEndian.PutUint64(number, binary.BigEndian.Uint64(number)+1)
}

// seal makes records of size bytes of b, and writes them with what is kept. The byte of b behind them is changed meanwhile.
func (c *recordConn) seal(t *tls.Conn, b []byte, size int) error {
	n, err := c.sealed(t, b, size)
	if err == nil && n < size {
		_, err = t.Write(b[n:size])
	}
	return err
}

// sealed is seal without writing, and returns how many bytes it has sealed, up to where tls.Conn has to.
func (c *recordConn) sealed(t *tls.Conn, b []byte, size int) (n int, err error) {
	f := tlsFields()
	if f == nil {
		return 0, nil
	}
	aead := f.out.lock(t)
	defer f.out.unlock(t)
	if aead == nil || *fieldOf[bool](t, f.closeNotifySent) {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n < size {
		content := min(size-n, maxRecordPayload)
		room, err := c.roomFor(content+recordOverhead, sealedSize(size-n))
		if err != nil {
			return n, err
		}
		record := append(room[:0], contentData, contentVersion>>8, contentVersion&0xff)
		record = binary.BigEndian.AppendUint16(record, uint16(content+recordOverhead-recordHeader))
		// The type of the content follows it.
		behind := &b[n+content]
		was := *behind
		*behind = contentData
		aead.Seal(record, f.out.number(t), b[n:n+content+1], record)
		*behind = was
		f.out.step(t)
		c.pending += content + recordOverhead
		n += content
	}
	return n, nil
}

// roomFor returns the free part of c.out, at least n bytes. total is how much will be written, as far as that is known.
func (c *recordConn) roomFor(n, total int) ([]byte, error) {
	for {
		if c.writeErr != nil {
			return nil, c.writeErr
		}
		if err := c.makeRoom(total); err != nil {
			return nil, err
		}
		if room := c.out.b[c.pending:]; len(room) >= n {
			return room, nil
		}
		if err := c.flushLocked(); err != nil {
			return nil, err
		}
	}
}

// decrypt returns a buffer with held and, behind it, the content of the complete records that are buffered: n bytes in all.
// Bytes may come together with an error, errNoRecord if no complete record is left. The caller returns the buffer to its pool.
func (c *recordConn) decrypt(t *tls.Conn, held []byte) (b *buffer, n int, err error) {
	b = c.pools.get(classFor(len(held) + c.buffered()))
	for n = copy(b.b, held); n < len(b.b) && err == nil; {
		var m int
		if m, err = c.open(t, b.b[n:]); m == 0 && err == nil {
			m, err = t.Read(b.b[n:])
		}
		n += m
	}
	return b, n, err
}

// open writes the content of the records that are buffered to room, up to one that tls.Conn has to read. The error is
// errNoRecord or nil.
func (c *recordConn) open(t *tls.Conn, room []byte) (n int, err error) {
	f := tlsFields()
	if f == nil || !c.relaying || c.left > 0 {
		return 0, nil
	}
	aead := f.in.lock(t)
	defer f.in.unlock(t)
	if aead == nil || fieldOf[bytes.Reader](t, f.input).Len()+fieldOf[bytes.Buffer](t, f.raw).Len() > 0 {
		return 0, nil
	}
	// A message of a handshake is not interrupted by data.
	for data := fieldOf[bytes.Buffer](t, f.hand).Len() == 0; ; {
		size := c.nextRecord()
		switch {
		case size == 0:
			return n, errNoRecord
		case !data || len(room)-n < size:
			return n, nil
		}
		m := openRecord(aead, f.in.number(t), c.in.b[c.r:c.r+size], room[n:])
		if m == 0 {
			return n, nil
		}
		f.in.step(t)
		*fieldOf[int](t, f.retries) = 0
		n += m
		if c.r += size; c.r == c.w {
			c.drained()
		}
	}
}

// openRecord writes the content of a record of data to room, which is no shorter, and returns its length. That is 0 for all
// other records.
func openRecord(aead cipher.AEAD, number, record, room []byte) int {
	if record[0] != contentData || binary.BigEndian.Uint16(record[1:]) != contentVersion || len(record) > maxRecordPayload+recordOverhead {
		return 0
	}
	content, err := aead.Open(room[:0], number, record[recordHeader:], record[:recordHeader])
	if err != nil {
		return 0
	}
	// Behind the content is its type, unless there is padding.
	if last := len(content) - 1; last > 0 && content[last] == contentData {
		return last
	}
	return 0
}
