//go:build linux

package sniff

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
)

const (
	// socketBuffer is what the kernel keeps for a recording that falls behind, in bytes. It
	// drops and counts the rest.
	socketBuffer = 64 << 20
	// drainTime bounds the reading after the end was asked for.
	drainTime = 2 * time.Second
)

// Options say what to record. The zero value is everything, without end.
type Options struct {
	// Interface is the name of the only interface to record on, all if empty.
	Interface string
	// Ports are those of TCP and UDP, all traffic if empty.
	Ports []uint16
	// SnapLen is how many bytes of a packet are kept, without the header that recording
	// adds; all if 0.
	SnapLen int
	// MaxBytes ends the recording at this length, unless 0.
	MaxBytes int64
	// Application names the program in the head of the recording.
	Application string
}

// Run records until ctx is done, and then writes statistics. Once the head has been written
// to w, every later packet is recorded, except for those that the statistics count as
// dropped.
//
// Packets of loopback are recorded once, as they arrive.
func Run(ctx context.Context, w io.Writer, o Options) error {
	if o.SnapLen <= 0 || o.SnapLen > pcapng.MaxPacket-pcapng.CookedSize {
		o.SnapLen = pcapng.MaxPacket - pcapng.CookedSize
	}
	s := &sniffer{options: o, out: bufio.NewWriterSize(w, 256<<10), devices: map[int]*device{},
		packet: make([]byte, o.SnapLen), control: make([]byte, unix.CmsgSpace(64))}
	if err := s.open(); err != nil {
		return err
	}
	defer s.socket.Close()
	if err := s.begin(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = s.socket.SetReadDeadline(time.Unix(1, 0)) })()
	err := s.record()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = s.drain()
	}
	if err != nil && !errors.Is(err, errFull) {
		return err
	}
	return s.end()
}

// errFull says that MaxBytes are written.
var errFull = errors.New("the recording has its length")

// sniffer is one recording.
type sniffer struct {
	options Options
	socket  *os.File
	raw     syscall.RawConn
	out     *bufio.Writer
	pcap    *pcapng.Writer
	devices map[int]*device
	// packet and control are what recvmsg fills.
	packet, control []byte
	header          []byte
}

// device is an interface that is recorded.
type device struct {
	// number is the interface's in the recording.
	number   int
	received uint64
}

// open makes a socket that receives packets from the moment that it is bound, and none that
// the filter rejects.
func (s *sniffer) open() error {
	// Without a protocol it receives nothing yet.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("opening a packet socket: %w", err)
	}
	s.socket = os.NewFile(uintptr(fd), "packets")
	if err = s.setUp(fd); err == nil {
		s.raw, err = s.socket.SyscallConn()
	}
	if err != nil {
		s.socket.Close()
	}
	return err
}

func (s *sniffer) setUp(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer); err != nil {
		return fmt.Errorf("setting the size of the buffer: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("asking for times: %w", err)
	}
	if len(s.options.Ports) > 0 {
		program, err := portFilter(s.options.Ports)
		if err != nil {
			return err
		}
		if err := attach(fd, program); err != nil {
			return err
		}
	}
	address := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)}
	if name := s.options.Interface; name != "" {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("looking for interface %q: %w", name, err)
		}
		address.Ifindex = i.Index
	}
	if err := unix.Bind(fd, address); err != nil {
		return fmt.Errorf("starting to record: %w", err)
	}
	return nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// begin writes the head of the recording.
func (s *sniffer) begin() error {
	var err error
	if s.pcap, err = pcapng.NewWriter(s.out, s.options.Application); err != nil {
		return err
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("listing the interfaces: %w", err)
	}
	for _, i := range interfaces {
		if s.options.Interface != "" && i.Name != s.options.Interface {
			continue
		}
		if _, err := s.add(&i); err != nil {
			return err
		}
	}
	return s.out.Flush()
}

func (s *sniffer) add(i *net.Interface) (*device, error) {
	about := pcapng.Interface{Name: i.Name, LinkType: pcapng.LinuxSLL2, SnapLen: uint32(s.options.SnapLen + pcapng.CookedSize)}
	if i.Flags&net.FlagLoopback != 0 {
		about.Description = "loopback: what applications and the gateway say to each other, in plaintext"
	}
	number, err := s.pcap.AddInterface(about)
	if err != nil {
		return nil, err
	}
	d := &device{number: number}
	s.devices[i.Index] = d
	return d, nil
}

// device returns the interface with an index, which may be newer than the recording.
func (s *sniffer) device(index int) (*device, error) {
	if d, ok := s.devices[index]; ok {
		return d, nil
	}
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		// The interface may be gone before its last packets are read.
		i = &net.Interface{Index: index, Name: fmt.Sprintf("interface-%d", index)}
	}
	return s.add(i)
}

// record reads until the socket's deadline or the end.
func (s *sniffer) record() error {
	for {
		var wait bool
		var err error
		if readErr := s.raw.Read(func(fd uintptr) bool {
			if err = s.receive(int(fd)); err != unix.EAGAIN {
				return true
			}
			// A reader must not wait for the next packet to see this one.
			wait = s.out.Buffered() == 0
			return !wait
		}); readErr != nil {
			return readErr
		}
		if err == unix.EAGAIN {
			err = s.out.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// drain reads the packets that have arrived by now.
func (s *sniffer) drain() error {
	until := time.Now()
	var err error
	if controlErr := s.raw.Control(func(fd uintptr) {
		for err == nil && time.Since(until) < drainTime {
			err = s.receive(int(fd))
		}
	}); controlErr != nil {
		return controlErr
	}
	if err == unix.EAGAIN {
		return nil
	}
	return err
}

// receive takes one packet from the socket. The error is EAGAIN if there is none.
func (s *sniffer) receive(fd int) error {
	n, controlLength, _, from, err := unix.Recvmsg(fd, s.packet, s.control, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EINTR:
		return nil
	case err == unix.ENETDOWN: // an interface went down; the others go on
		return nil
	case err == unix.EAGAIN:
		return err
	case err != nil:
		return fmt.Errorf("receiving packets: %w", err)
	}
	link, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return errors.New("receiving packets: one has no link-layer address")
	}
	// On loopback every packet is seen twice, sent and received.
	if link.Hatype == unix.ARPHRD_LOOPBACK && link.Pkttype == unix.PACKET_OUTGOING {
		return nil
	}
	d, err := s.device(link.Ifindex)
	if err != nil {
		return err
	}
	d.received++
	header := pcapng.Cooked{Protocol: networkOrder(link.Protocol), Index: uint32(link.Ifindex), Hardware: link.Hatype,
		Type: link.Pkttype, AddressLength: min(link.Halen, 8), Address: link.Addr}
	s.header = header.Append(s.header[:0])
	if err := s.pcap.WritePacket(d.number, packetTime(s.control[:controlLength]), n+len(s.header),
		s.header, s.packet[:min(n, len(s.packet))]); err != nil {
		return err
	}
	if s.options.MaxBytes > 0 && s.pcap.Written() >= s.options.MaxBytes {
		return errFull
	}
	return nil
}

// packetTime returns the time that the kernel stamped on a packet.
func packetTime(control []byte) time.Time {
	for len(control) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if header.Level == unix.SOL_SOCKET && header.Type == unix.SO_TIMESTAMPNS && len(data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
		}
		control = rest
	}
	return time.Now()
}

// end writes the statistics. The kernel counts drops for the socket and not for each
// interface: they are added to the first one, so that the sum is right.
func (s *sniffer) end() error {
	var dropped uint64
	var err error
	if controlErr := s.raw.Control(func(fd uintptr) {
		var stats *unix.TpacketStats
		if stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			dropped = uint64(stats.Drops)
		}
	}); controlErr != nil {
		return controlErr
	}
	if err != nil {
		return fmt.Errorf("asking for dropped packets: %w", err)
	}
	devices := slices.SortedFunc(maps.Values(s.devices), func(a, b *device) int { return a.number - b.number })
	now := time.Now()
	for _, d := range devices {
		if err := s.pcap.WriteStatistics(pcapng.Statistics{Interface: d.number, Time: now, Received: d.received + dropped, Dropped: dropped}); err != nil {
			return err
		}
		dropped = 0
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("writing the packets: %w", err)
	}
	return nil
}
