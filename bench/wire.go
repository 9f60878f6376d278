//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// messageSize is the size in bytes of every request and response: small enough
// that only calls and wake-ups count.
const messageSize = 64

// chunkSize is how much the applications write and read at once, in bytes: as
// much as iperf3 does.
const chunkSize = 128 << 10

// portServer is where the measured application listens.
const portServer = 9000

// slack is how much longer than its planned duration a connection may take
// before it counts as broken.
const slack = 20 * time.Second

// A connection begins with a message of the client that says what it is for.
// The server answers it with a message, and then:
const (
	// kindUpload: the client sends until its end of file; the server answers
	// with a message that holds the number of bytes, and closes.
	kindUpload = 'u'
	// kindDownload: the client sends another message to start the clock; the
	// server sends for the time that the first one named, and closes.
	kindDownload = 'd'
	// kindEcho: every further message is sent back as it is.
	kindEcho = 'e'
	// kindOnce: the server closes, which leaves TIME_WAIT on its side, where
	// it takes no port from the client.
	kindOnce = 'o'
)

// message is a kind, and at 8 a number in big endian.
type message [messageSize]byte

func newMessage(kind byte, value uint64) *message {
	m := &message{kind}
	m.set(value)
	return m
}

func (m *message) set(value uint64) { binary.BigEndian.PutUint64(m[8:], value) }
func (m *message) value() uint64    { return binary.BigEndian.Uint64(m[8:]) }

// stream is a connection that counts its bytes.
type stream struct {
	*net.TCPConn
	sent, received uint64
}

func (s *stream) send(b []byte) error {
	n, err := s.Write(b)
	s.sent += uint64(n)
	return err
}

func (s *stream) receive(b []byte) error {
	n, err := io.ReadFull(s.TCPConn, b)
	s.received += uint64(n)
	return err
}

// sendFor sends for so long, and returns how many bytes.
func (s *stream) sendFor(d time.Duration) (uint64, error) {
	chunk := make([]byte, chunkSize)
	before := s.sent
	for end := time.Now().Add(d); time.Now().Before(end); {
		n, err := s.Write(chunk)
		s.sent += uint64(n)
		if err != nil {
			return s.sent - before, err
		}
	}
	return s.sent - before, nil
}

// receiveAll reads to the end of file, and returns how many bytes.
func (s *stream) receiveAll() (uint64, error) {
	chunk := make([]byte, chunkSize)
	before := s.received
	for {
		n, err := s.Read(chunk)
		s.received += uint64(n)
		if err == io.EOF {
			return s.received - before, nil
		}
		if err != nil {
			return s.received - before, err
		}
	}
}

// expectEnd reads the end of file and nothing else.
func (s *stream) expectEnd() error {
	var b [1]byte
	n, err := s.Read(b[:])
	s.received += uint64(n)
	switch {
	case err == io.EOF:
		return nil
	case err == nil:
		return errTooMuch
	}
	return err
}

// portTimeout bounds the wait for a port: in a pod, the process of the measurement before may be about to end.
const portTimeout = 5 * time.Second

func listen(address string) (*net.TCPListener, error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(portTimeout); ; time.Sleep(portTimeout / 100) {
		// A listener made this way is not an MPTCP one, unlike net.Listen's.
		ln, err := net.ListenTCP("tcp", a)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return ln, err
		}
	}
}
