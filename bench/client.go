//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// holdWorkers is how many connections are opened at a time for those that are
// then held.
const holdWorkers = 32

// client is the measured application's dialling side.
type client struct {
	target *net.TCPAddr
	held   []*stream
}

func clientMain([]string) int {
	c := &client{}
	return serveOrders(c.handle)
}

func (c *client) handle(o order) (outcome, error) {
	if o.Target != "" {
		target, err := net.ResolveTCPAddr("tcp", o.Target)
		if err != nil {
			return outcome{}, err
		}
		c.target = target
	}
	switch o.Op {
	case opUpload:
		return c.transfer(o, kindUpload, upload)
	case opDownload:
		return c.transfer(o, kindDownload, download)
	case opPing:
		return c.ping(o)
	case opBeside:
		return c.beside(o)
	case opConnect:
		return c.connect(o)
	case opHold:
		return c.hold(o)
	case opRelease:
		return c.release()
	}
	return outcome{}, fmt.Errorf("unknown order %q", o.Op)
}

// open dials, and exchanges the first message.
func (c *client) open(kind byte, d time.Duration) (*stream, error) {
	conn, err := net.DialTCP("tcp", nil, c.target)
	if err != nil {
		return nil, err
	}
	s := &stream{TCPConn: conn}
	m := newMessage(kind, uint64(d))
	if err = conn.SetDeadline(time.Now().Add(d + slack)); err == nil {
		if err = s.send(m[:]); err == nil {
			err = s.receive(m[:])
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (o *outcome) add(s *stream) {
	o.Connections++
	o.Sent += s.sent
	o.Received += s.received
}

// timing is what one worker did, and how long each time.
type timing struct {
	outcome
	times []time.Duration
}

// sum adds up what workers did.
func sum(workers []timing, elapsed time.Duration) outcome {
	result := outcome{Elapsed: elapsed}
	var times []time.Duration
	for _, w := range workers {
		result.Connections += w.Connections
		result.Sent += w.Sent
		result.Received += w.Received
		times = append(times, w.times...)
	}
	if n := len(times); n > 0 {
		slices.Sort(times)
		result.Operations, result.Median, result.P99 = n, times[n/2], times[n*99/100]
	}
	return result
}

// together runs f for 0 to n-1 at the same time.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// transfer moves bytes over o.Workers connections for o.Duration. The clock
// starts when all are open, and stops when the last byte is known to have
// arrived.
func (c *client) transfer(o order, kind byte, move func(*stream, time.Duration) (uint64, error)) (result outcome, err error) {
	streams := make([]*stream, o.Workers)
	defer func() {
		for _, s := range streams {
			if s != nil {
				s.Close()
			}
		}
	}()
	for i := range streams {
		if streams[i], err = c.open(kind, o.Duration); err != nil {
			return result, err
		}
	}
	payload := make([]uint64, len(streams))
	start := time.Now()
	err = together(len(streams), func(i int) (err error) {
		payload[i], err = move(streams[i], o.Duration)
		return err
	})
	result.Elapsed = time.Since(start)
	for i, s := range streams {
		result.add(s)
		result.Payload += payload[i]
	}
	return result, err
}

func upload(s *stream, d time.Duration) (uint64, error) {
	sent, err := s.sendFor(d)
	if err != nil {
		return sent, err
	}
	if err := s.CloseWrite(); err != nil {
		return sent, err
	}
	var m message
	if err := s.receive(m[:]); err != nil {
		return sent, err
	}
	if m.value() != sent {
		return sent, fmt.Errorf("sent %d bytes, the server received %d", sent, m.value())
	}
	return sent, s.expectEnd()
}

func download(s *stream, _ time.Duration) (uint64, error) {
	if err := s.send(newMessage(kindDownload, 0)[:]); err != nil {
		return 0, err
	}
	return s.receiveAll()
}

// ping sends one request after the other, over one connection in each worker.
func (c *client) ping(o order) (outcome, error) {
	each := make([]timing, max(1, o.Workers))
	start := time.Now()
	err := together(len(each), func(i int) (err error) {
		each[i], err = c.requests(o)
		return err
	})
	return sum(each, time.Since(start)), err
}

// beside pings on one connection while o.Workers others upload.
func (c *client) beside(o order) (result outcome, err error) {
	var uploads outcome
	err = together(2, func(i int) (err error) {
		if i == 0 {
			uploads, err = c.transfer(o, kindUpload, upload)
		} else {
			result, err = c.ping(order{Duration: o.Duration})
		}
		return err
	})
	result.Connections += uploads.Connections
	result.Sent += uploads.Sent
	result.Received += uploads.Received
	result.Payload, result.Elapsed = uploads.Payload, uploads.Elapsed
	return result, err
}

func (c *client) requests(o order) (t timing, err error) {
	s, err := c.open(kindEcho, o.Duration)
	if err != nil {
		return t, err
	}
	defer s.Close()
	t.times = make([]time.Duration, 0, 1<<16)
	request := make([]byte, max(o.Size, messageSize))
	response := make([]byte, len(request))
	start := time.Now()
	for now := start; now.Sub(start) < o.Duration; {
		binary.BigEndian.PutUint64(request, uint64(len(t.times)))
		if err := s.send(request); err != nil {
			return t, err
		}
		if err := s.receive(response); err != nil {
			return t, err
		}
		if !bytes.Equal(request, response) {
			return t, errors.New("an answer differs from the request")
		}
		then := now
		now = time.Now()
		t.times = append(t.times, now.Sub(then))
	}
	if err := s.CloseWrite(); err != nil {
		return t, err
	}
	if err := s.expectEnd(); err != nil {
		return t, err
	}
	t.add(s)
	return t, nil
}

// connect opens one connection after the other in each worker, with one message
// each way.
func (c *client) connect(o order) (outcome, error) {
	start := time.Now()
	each := make([]timing, o.Workers)
	err := together(o.Workers, func(i int) error {
		for begin := start; begin.Sub(start) < o.Duration; begin = time.Now() {
			s, err := c.open(kindOnce, 0)
			if err != nil {
				return err
			}
			each[i].times = append(each[i].times, time.Since(begin))
			err = s.expectEnd()
			s.Close()
			if err != nil {
				return err
			}
			each[i].add(s)
		}
		return nil
	})
	return sum(each, time.Since(start)), err
}

// hold opens o.Workers connections and keeps them.
func (c *client) hold(o order) (outcome, error) {
	held := make([]*stream, o.Workers)
	err := together(holdWorkers, func(w int) error {
		for i := w; i < len(held); i += holdWorkers {
			s, err := c.open(kindEcho, o.Duration)
			if err != nil {
				return err
			}
			held[i] = s
		}
		return nil
	})
	for _, s := range held {
		if s != nil {
			c.held = append(c.held, s)
		}
	}
	return outcome{Connections: len(c.held), Open: len(c.held)}, err
}

// release closes what hold keeps.
func (c *client) release() (result outcome, err error) {
	for _, s := range c.held {
		if err := s.SetDeadline(time.Now().Add(slack)); err != nil {
			return result, err
		}
		if err := s.CloseWrite(); err != nil {
			return result, err
		}
	}
	for _, s := range c.held {
		if err := s.expectEnd(); err != nil {
			return result, err
		}
		s.Close()
		result.add(s)
	}
	c.held = nil
	return result, nil
}
