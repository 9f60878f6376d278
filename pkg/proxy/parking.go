//go:build linux

package proxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A goroutine that waits for data costs its stack, 4 to 16 KiB, and each connection has two. So where nothing has come or
// gone for a sweepInterval, the two park: they end, and the parking lot starts others with the next data. Only what is
// relayed both ways parks; handshakes, answers and ends are awaited as usual.

// errParked means that a reader has been asked to park, and is to return to where it can.
var errParked = errors.New("parked")

// parking is the part of a stream that its reader parks with. Whatever is done to the stream that would
// wake a reader, a deadline or the end, starts one that is parked.
type parking struct {
	mu sync.Mutex
	// lot is where the reader parks, and number the place; nil and 0 until it has been asked the first time.
	lot    *lot
	number uint64
	armed  bool
	// asked means that the reader is to park, overtaken that a deadline has been set since.
	asked, overtaken bool
	// bounded means that there is a deadline.
	bounded, closed bool
	// resume goes on with reading, nil unless the reader is parked.
	resume func()
}

// parkable is a stream whose reader can park.
type parkable interface {
	stream
	// ask has the reader park at l, as soon as it waits, and reports whether it has to be asked.
	ask(l *lot) bool
	// interrupted says what err means, which has ended the reader's waiting.
	interrupted(err error) interruption
	// park has resume called in a goroutine of its own when something comes.
	park(resume func())
}

// interruption is what the end of waiting means.
type interruption uint8

const (
	waitFailed    interruption = iota // an error
	waitAgain                         // nothing
	waitElsewhere                     // the reader is to park
)

// past is a deadline that has passed.
func past() time.Time { return time.Unix(1, 0) }

// awaitReadable calls do until it reports true, and waits for data in between. The error is errParked where the
// reader is to park.
func awaitReadable(s stream, raw syscall.RawConn, do func(fd uintptr) bool) error {
	for {
		err := raw.Read(do)
		if err == nil {
			return nil
		}
		p, ok := s.(parkable)
		if !ok {
			return err
		}
		switch p.interrupted(err) {
		case waitFailed:
			return err
		case waitElsewhere:
			return errParked
		}
	}
}

// askWith is parkable's ask of a stream with this SetReadDeadline.
func (p *parking) askWith(l *lot, setReadDeadline func(time.Time) error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l == nil || p.asked || p.bounded || p.closed || p.resume != nil {
		return false
	}
	p.lot, p.asked = l, setReadDeadline(past()) == nil
	return p.asked
}

// interruptedWith is parkable's interrupted of a stream with this SetReadDeadline.
func (p *parking) interruptedWith(err error, setReadDeadline func(time.Time) error) interruption {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return waitFailed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.asked:
		return waitFailed
	case p.overtaken:
		p.asked, p.overtaken = false, false
		return waitAgain
	}
	p.asked = false
	if setReadDeadline(time.Time{}) != nil {
		return waitAgain // it is closed
	}
	return waitElsewhere
}

// parkAt is parkable's park of a stream with this descriptor.
func (p *parking) parkAt(d *descriptor, resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.bounded {
		go resume()
		return
	}
	// The kernel knows by its number who waits for it.
	d.giveUp(func(fd int) { p.armed = p.armed && p.lot.arm(unix.EPOLL_CTL_DEL, fd, p.number) != nil })
	if p.arm(d) != nil {
		go resume()
		return
	}
	p.resume = resume
}

// arm has the lot call wake with the next data. p.mu is locked.
func (p *parking) arm(raw syscall.RawConn) error {
	if p.number == 0 {
		p.number = p.lot.add(p)
	}
	return control(raw, func(fd int) error {
		call := unix.EPOLL_CTL_MOD
		if !p.armed {
			call = unix.EPOLL_CTL_ADD
		}
		err := p.lot.arm(call, fd, p.number)
		p.armed = p.armed || err == nil
		return err
	})
}

// wake starts the reader if it is parked.
func (p *parking) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeLocked()
}

func (p *parking) wakeLocked() {
	if p.resume != nil {
		go p.resume()
		p.resume = nil
	}
}

// bound is called for each read deadline that is set with set.
func (p *parking) bound(deadline time.Time, set func(time.Time) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.overtaken = p.asked
	p.bounded = !deadline.IsZero()
	err := set(deadline)
	p.wakeLocked()
	return err
}

// end is called for the Close of a stream.
func (p *parking) end(close func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.number != 0 {
		p.lot.remove(p.number)
		p.number = 0
	}
	err := close()
	p.wakeLocked()
	return err
}

// lot is where readers park: an epoll instance, and who waits for what.
type lot struct {
	file *os.File
	raw  syscall.RawConn

	mu     sync.Mutex
	last   uint64
	places map[uint64]*parking
}

// newLot returns a lot, or nil if there are no descriptors for it: then nobody parks.
func newLot() *lot {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	// The runtime's own epoll waits for this one.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil
	}
	l := &lot{file: os.NewFile(uintptr(fd), "epoll"), places: make(map[uint64]*parking)}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		_ = l.file.Close()
		return nil
	}
	return l
}

// close ends l. Nobody parks there any more.
func (l *lot) close() {
	if l != nil {
		_ = l.file.Close()
	}
}

func (l *lot) add(p *parking) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.places[l.last] = p
	return l.last
}

func (l *lot) remove(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.places, number)
}

func (l *lot) at(number uint64) *parking {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.places[number]
}

// arm has the lot wake who is at a place once, when fd is readable.
func (l *lot) arm(call, fd int, number uint64) error {
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(number), Pad: int32(number >> 32),
	}
	return control(l.raw, func(epoll int) error { return unix.EpollCtl(epoll, call, fd, &event) })
}

// serve wakes who is parked until ctx is done.
func (l *lot) serve(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { _ = l.file.SetReadDeadline(past()) })()
	var events [64]unix.EpollEvent
	for {
		n := 0
		if l.raw.Read(func(fd uintptr) bool {
			n = epollNow(fd, events[:])
			return n > 0
		}) != nil {
			return
		}
		for _, e := range events[:n] {
			if p := l.at(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); p != nil {
				p.wake()
			}
		}
	}
}

// epollNow returns how many events there are, without waiting for one.
func epollNow(fd uintptr, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// park has resume go on with what reads from s, which has returned errParked.
func (c *connection) park(s stream, resume func()) {
	if s == c.wire && c.tls != nil {
		giveUpBuffers(c.tls)
	}
	s.(parkable).park(resume)
}

// park is the same for what reads from the peer.
func (k *carrier) park(resume func()) {
	giveUpBuffers(k.tls)
	k.conn.(parkable).park(resume)
}

// giveUpBuffers has the garbage collector take the buffers of a TLS connection that has nothing in them: up to 17 KiB for the
// largest record, and 2 for the handshake; and the secret for ExportKeyingMaterial, which nobody calls. crypto/tls keeps them for
// good. The caller is its only reader.
func giveUpBuffers(secured *tls.Conn) {
	f := tlsFields()
	if f == nil {
		return
	}
	in, raw, hand := fieldOf[bytes.Reader](secured, f.input), fieldOf[bytes.Buffer](secured, f.raw), fieldOf[bytes.Buffer](secured, f.hand)
	*fieldOf[exporter](secured, f.ekm) = nil
	// What is read lies in raw.
	if in.Len() == 0 && raw.Len() == 0 {
		*in, *raw = bytes.Reader{}, bytes.Buffer{}
	}
	if hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
}

// manyParked is after how many readers that have parked their stacks are given back to the operating system.
const manyParked = 128

// parkIdle has connections park that carry nothing, and idle carriers. When no more have to, it is time to give back what they leave
// behind. It belongs to the sweeper.
func (p *Proxy) parkIdle(open []*connection) {
	asked, quiet := p.carriers.park(p.lot, time.Now().Add(-cmp.Or(p.options.sweep, sweepInterval))), len(open) >= crowdSize
	for _, c := range open {
		n, idle := c.parkIdle(p.lot)
		asked, quiet = asked+n, quiet && idle
	}
	switch {
	case asked > 0:
		p.parked += asked
	case p.parked >= manyParked:
		p.parked = 0
		p.rest()
	case quiet && p.options.Quiet != nil:
		p.options.Quiet()
	}
}

// Where many connections begin one after the other, goroutines would be most of the memory that they take, some of it for good: Go
// never frees what it knows a goroutine by. So those that are idle park without waiting for the sweeper's next round.
const (
	// crowdSize is how many connections have to begin for that, and to be open.
	crowdSize = 64
	// crowdPause is the least time between two looks, and so for how long a connection that parks has carried nothing.
	crowdPause = 25 * time.Millisecond
)

// crowd counts connections that begin.
type crowd struct {
	begun atomic.Int32
	// ready has a value when there are crowdSize.
	ready chan struct{}
}

func (n *crowd) add() {
	if n.begun.Add(1) == crowdSize {
		n.ready <- struct{}{}
	}
}

// parkCrowd is parkIdle for a crowd. It belongs to the sweeper.
func (p *Proxy) parkCrowd() {
	if open := p.live.snapshot(); len(open) >= crowdSize {
		for _, c := range open {
			asked, _ := c.parkIdle(p.lot)
			p.parked += asked
		}
	}
	// Another crowd counts from then on.
	time.AfterFunc(crowdPause, func() { p.many.begun.Store(0) })
}

// parkIdle has both goroutines of c park if nothing has been relayed since the last call, and returns how many have
// to, and whether that is so. It belongs to the sweeper.
func (c *connection) parkIdle(l *lot) (asked int, idle bool) {
	sent, received := c.sent.Load(), c.received.Load()
	idle = sent+received == c.seen
	c.seen = sent + received
	// Behind data of both sides there are no more answers.
	if !idle || sent == 0 || received == 0 || c.relaying.Load() != 2 {
		return 0, idle
	}
	c.mu.Lock()
	sockets, ending := c.sockets, c.halfEnded || c.aborted != nil
	c.mu.Unlock()
	if ending {
		return 0, false
	}
	for _, s := range sockets {
		if s, ok := s.(parkable); ok && s.ask(l) {
			asked++
		}
	}
	return asked, idle
}
