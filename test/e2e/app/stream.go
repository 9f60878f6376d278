package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"
	"syscall"

	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// A stream is one direction of a connection of portTraffic: numbered messages,
// each with the number of its stream and a sum, and the last one marked. So the
// reader knows of every byte that is lost, comes twice, is altered or belongs to
// another connection, and of an end that looks clean but comes too early.
//
//	stream 8 bytes, sequence 8, length of the text 4, last 1, CRC-32C 4, text
const (
	headerSize = 25
	// maxMessage bounds what a header may announce. More is an altered header.
	maxMessage = 1 << 20
)

var (
	errAltered   = errors.New("the stream was altered")
	errTruncated = errors.New("the stream ended too early, and cleanly")
)

// message is one message of a stream.
type message struct {
	sequence uint64
	last     bool
	text     []byte
}

// castagnoli returns the table of the sum (RFC 3720 section 12.1).
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendMessage appends the bytes of a message to b.
func appendMessage(b []byte, stream uint64, m message) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint64(b, stream)
	b = binary.BigEndian.AppendUint64(b, m.sequence)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.text)))
	if m.last {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	sum := crc32.Update(crc32.Checksum(b[start:], castagnoli()), castagnoli(), m.text)
	b = binary.BigEndian.AppendUint32(b, sum)
	return append(b, m.text...)
}

// sender numbers the messages of a stream.
type sender struct {
	w      io.Writer
	stream uint64
	next   uint64
	buffer []byte
}

func (s *sender) send(text []byte, last bool) error {
	s.buffer = appendMessage(s.buffer[:0], s.stream, message{sequence: s.next, last: last, text: text})
	s.next++
	_, err := s.w.Write(s.buffer)
	return err
}

// damage counts what happened to streams.
type damage struct {
	// Lost and Duplicated count messages, Altered the streams that were
	// unreadable from some point on, Truncated those that ended as if they were
	// complete.
	Lost, Duplicated, Altered, Truncated atomic.Uint64
}

func (d *damage) summary() appreport.Damage {
	return appreport.Damage{Lost: d.Lost.Load(), Duplicated: d.Duplicated.Load(), Altered: d.Altered.Load(), Truncated: d.Truncated.Load()}
}

// checker reads a stream.
type checker struct {
	r      *bufio.Reader
	stream uint64
	next   uint64
	ended  bool
	damage *damage
}

// receive returns the next message, or io.EOF after the last one. Lost and
// doubled messages are counted, and no error; the rest of an altered stream
// makes no sense any more. An end that comes too early is for judge to count.
func (c *checker) receive() (message, error) {
	var header [headerSize]byte
	if n, err := io.ReadFull(c.r, header[:]); err != nil {
		switch {
		case err == io.EOF && c.ended:
			return message{}, io.EOF
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return message{}, fmt.Errorf("%w: after message %d and %d bytes", errTruncated, c.next, n)
		}
		return message{}, err
	}
	length := binary.BigEndian.Uint32(header[16:])
	if c.ended || length > maxMessage {
		return message{}, c.altered()
	}
	m := message{sequence: binary.BigEndian.Uint64(header[8:]), last: header[20] == 1, text: make([]byte, length)}
	if _, err := io.ReadFull(c.r, m.text); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return message{}, fmt.Errorf("%w: inside message %d", errTruncated, m.sequence)
		}
		return message{}, err
	}
	sum := crc32.Update(crc32.Checksum(header[:headerSize-4], castagnoli()), castagnoli(), m.text)
	if binary.BigEndian.Uint64(header[:]) != c.stream || sum != binary.BigEndian.Uint32(header[21:]) {
		return message{}, c.altered()
	}
	switch {
	case m.sequence < c.next:
		c.damage.Duplicated.Add(1)
	default:
		c.damage.Lost.Add(m.sequence - c.next)
		c.next = m.sequence + 1
	}
	c.ended = c.ended || m.last
	return m, nil
}

// isReset reports whether a connection was reset, by the other end or by the
// administrator of this one (ECONNABORTED, of SOCK_DESTROY). After a half-close by the
// other end a reset is EPIPE (tcp_reset of net/ipv4/tcp_input.c). So is a write after an
// end that came too early, which is no reset.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, syscall.EPIPE) && !errors.Is(err, errTruncated)
}

// judge joins the errors of a connection's reader and writer, and counts it if
// it was truncated. The kernel reports a reset once only: a read after the write
// that got it sees an end of file, which nobody sent.
func (d *damage) judge(errs ...error) error {
	err := errors.Join(errs...)
	if errors.Is(err, errTruncated) && !isReset(err) {
		d.Truncated.Add(1)
	}
	return err
}

func (c *checker) altered() error {
	c.damage.Altered.Add(1)
	return fmt.Errorf("%w: after message %d", errAltered, c.next)
}
