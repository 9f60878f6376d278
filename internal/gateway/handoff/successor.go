//go:build linux

package handoff

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// A gateway that hands over and its successor meet at an abstract Unix socket, which every process of
// the pod can find. Both prove that they know the token: the predecessor sends a nonce, the successor
// a nonce and its proof, the predecessor its proof. The kernel connects the two, so what follows needs
// no protection of its own.

const (
	// OfferTimeout is how long a gateway waits for its successor.
	OfferTimeout = 30 * time.Second
	// proofTimeout bounds the proofs, and the writing of a message.
	proofTimeout = 5 * time.Second
	// maxStrangers is how many clients of the socket may try their proofs at the same time. The one
	// that has tried for longest makes room.
	maxStrangers = 16
	// maxMessage bounds a message between gateways, in bytes: edges, and a status without lists
	// that the cluster determines. What is revoked comes in one without edges.
	maxMessage = api.MaxEdgesAnswer + 256<<10
	// maxFiles is how many files come with a message.
	maxFiles = 2
)

// Message is one message between two gateways, which may be of different versions: a field that is
// not known is ignored.
type Message struct {
	// Hello is the successor's first message. Attached says that it captures and serves, after which
	// it never goes back.
	Hello    *Hello `json:"hello,omitempty"`
	Attached bool   `json:"attached,omitempty"`
	// Welcome answers Hello. With it come the peer listener, and that for metrics if both gateways
	// have the same address for it.
	Welcome *Welcome `json:"welcome,omitempty"`
	// Totals says that the predecessor captures nothing any more. More of them follow while its
	// connections end.
	Totals *Totals `json:"totals,omitempty"`
	// Refused is why one of the two does not go on.
	Refused string `json:"refused,omitempty"`
}

// Hello introduces a successor.
type Hello struct {
	// Cgroup is the successor's, see bpf.Cgroup.ID.
	Cgroup uint64 `json:"cgroup"`
	// Inband is the port of its in-band listener.
	Inband      uint16 `json:"inband"`
	MetricsAddr string `json:"metricsAddr,omitempty"`
}

// Welcome introduces a predecessor.
type Welcome struct {
	// Cgroups are those of the predecessor, and of the gateways before whose connections have not
	// ended.
	Cgroups []uint64 `json:"cgroups"`
	// Inband is the port of its in-band listener.
	Inband uint16 `json:"inband"`
	// Metrics says that the listener for metrics comes along.
	Metrics bool `json:"metrics,omitempty"`
	// Revoked are the lists that the predecessor has, as [ca.Revocations.Encode] returns them. They
	// prove themselves: its word counts for nothing.
	Revoked json.RawMessage `json:"revoked,omitempty"`
}

// Totals are what a gateway has counted, its own predecessors included.
type Totals struct {
	Traffic     api.Traffic          `json:"traffic"`
	Unencrypted []api.Unencrypted    `json:"unencrypted,omitempty"`
	Counts      api.CaptureCounts    `json:"counts"`
	Outside     []api.OutsideNetwork `json:"outside,omitempty"`
	Strangers   []api.Stranger       `json:"strangers,omitempty"`
	Refused     []api.Stranger       `json:"refused,omitempty"`
	Edges       *api.Edges           `json:"edges,omitempty"`
}

// Offer is where a gateway waits for its successor.
type Offer struct {
	Handover api.Handover
	ln       *net.UnixListener
}

// NewOffer opens the socket under a random name.
func NewOffer() (*Offer, error) {
	var name [16]byte
	token := make([]byte, sha256.Size)
	rand.Read(name[:])
	rand.Read(token)
	o := &Offer{Handover: api.Handover{Socket: "kube-gateway-" + hex.EncodeToString(name[:]), Token: token}}
	var err error
	if o.ln, err = net.ListenUnix("unix", o.address()); err != nil {
		return nil, fmt.Errorf("waiting for another gateway: %w", err)
	}
	return o, nil
}

func (o *Offer) address() *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: "@" + o.Handover.Socket}
}

// Close withdraws the offer.
func (o *Offer) Close() { o.ln.Close() }

// Accept waits for the first client that proves itself as root, and closes the offer. The error says
// that none came until ctx was done, or that the offer was closed.
func (o *Offer) Accept(ctx context.Context) (*Neighbour, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, o.Close)()
	defer o.Close()
	proved := make(chan *Neighbour)
	var trying sync.WaitGroup
	defer trying.Wait()
	defer cancel()
	trying.Go(func() {
		defer cancel()
		var strangers []context.CancelFunc
		for {
			conn, err := o.ln.AcceptUnix()
			if err != nil {
				return
			}
			if isRoot(conn) != nil {
				conn.Close()
				continue
			}
			patience, giveUp := context.WithCancel(ctx)
			if strangers = append(strangers, giveUp); len(strangers) > maxStrangers {
				strangers[0]()
				strangers = strangers[1:]
			}
			trying.Go(func() {
				defer giveUp()
				stop := context.AfterFunc(patience, func() { conn.Close() })
				if o.prove(conn) == nil && stop() {
					select {
					case proved <- &Neighbour{conn: conn}:
						return
					case <-ctx.Done():
					}
				}
				conn.Close()
			})
		}
	})
	select {
	case n := <-proved:
		return n, nil
	case <-ctx.Done():
		return nil, errors.New("no other gateway came to take over")
	}
}

// isRoot returns an error unless the other end of conn was connected by root.
func isRoot(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var who *unix.Ucred
	var asked error
	if err := raw.Control(func(fd uintptr) { who, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if asked == nil && who.Uid != 0 {
		asked = errors.New("it is not root")
	}
	return asked
}

const nonceSize = 32

// proof shows that an end knows the token. Each end has a word of its own, so that none can send the
// other's back.
func proof(word string, token, nonces []byte) []byte {
	m := hmac.New(sha256.New, token)
	m.Write([]byte("kube-gateway " + word + "\x00"))
	m.Write(nonces)
	return m.Sum(nil)
}

const (
	predecessor = "predecessor"
	successor   = "successor"
)

var errProof = errors.New("the other end does not know the token")

// prove is the predecessor's side.
func (o *Offer) prove(conn *net.UnixConn) error {
	_ = conn.SetDeadline(time.Now().Add(proofTimeout))
	nonces := make([]byte, 2*nonceSize)
	rand.Read(nonces[:nonceSize])
	if _, err := conn.Write(nonces[:nonceSize]); err != nil {
		return err
	}
	theirs := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, nonces[nonceSize:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return err
	}
	if !hmac.Equal(theirs, proof(successor, o.Handover.Token, nonces)) {
		return errProof
	}
	_, err := conn.Write(proof(predecessor, o.Handover.Token, nonces))
	_ = conn.SetDeadline(time.Time{})
	return err
}

// Meet connects to the gateway that made an offer.
func Meet(ctx context.Context, h *api.Handover) (*Neighbour, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	var d net.Dialer
	o := Offer{Handover: *h}
	conn, err := d.DialContext(ctx, "unix", o.address().Name)
	if err != nil {
		return nil, fmt.Errorf("reaching the other gateway: %w", err)
	}
	if err := o.meet(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("meeting the other gateway: %w", err)
	}
	return &Neighbour{conn: conn.(*net.UnixConn)}, nil
}

func (o *Offer) meet(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(proofTimeout))
	nonces := make([]byte, 2*nonceSize)
	rand.Read(nonces[nonceSize:])
	if _, err := io.ReadFull(conn, nonces[:nonceSize]); err != nil {
		return err
	}
	if _, err := conn.Write(append(nonces[nonceSize:], proof(successor, o.Handover.Token, nonces)...)); err != nil {
		return err
	}
	theirs := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return err
	}
	if !hmac.Equal(theirs, proof(predecessor, o.Handover.Token, nonces)) {
		return errProof
	}
	return conn.SetDeadline(time.Time{})
}

// Neighbour is the other gateway of the pod.
type Neighbour struct{ conn *net.UnixConn }

// Close closes the connection. Without a message before, the other end takes this one for dead.
func (n *Neighbour) Close() { n.conn.Close() }

// Send sends a message with up to maxFiles files, which stay open here.
func (n *Neighbour) Send(m *Message, files ...*os.File) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing to the other gateway: %w", err)
		}
	}()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		// File.Fd would make the listener block, in the worker too.
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	_ = n.conn.SetWriteDeadline(time.Now().Add(proofTimeout))
	packet := append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	sent, _, err := n.conn.WriteMsgUnix(packet, rights, nil)
	if err == nil && sent < len(packet) {
		_, err = n.conn.Write(packet[sent:])
	}
	return err
}

// Receive waits for the next message, and for its files, until deadline; zero is forever. The error
// is io.EOF if the other gateway has ended.
func (n *Neighbour) Receive(deadline time.Time) (m *Message, files []*os.File, err error) {
	if err := n.conn.SetReadDeadline(deadline); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			CloseAll(files)
			files = nil
		}
		if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
	}()
	var header [4]byte
	for at := 0; at < len(header); {
		oob := make([]byte, unix.CmsgSpace(4*maxFiles))
		got, oobn, _, _, err := n.conn.ReadMsgUnix(header[at:], oob)
		files = append(files, receivedFiles(oob[:oobn])...)
		if err == nil && got == 0 {
			err = io.EOF
		}
		if err != nil {
			return nil, files, err
		}
		at += got
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > maxMessage {
		return nil, files, fmt.Errorf("the other gateway's message has %d bytes", size)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(n.conn, text); err != nil {
		return nil, files, err
	}
	m, err = parseMessage(text)
	return m, files, err
}

// receivedFiles returns the files that came with a message.
func receivedFiles(oob []byte) (files []*os.File) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if f, err := Keep(fd); err == nil {
				files = append(files, f)
			}
			_ = unix.Close(fd)
		}
	}
	return files
}

// CloseAll closes files, of which some may be nil.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// parseMessage reads a message. Its texts are harmless afterwards, its lists bounded, and of its
// fields one is set.
func parseMessage(text []byte) (*Message, error) {
	var m Message
	if len(text) > maxMessage {
		return nil, fmt.Errorf("the other gateway's message has %d bytes", len(text))
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("reading the other gateway's message: %s", api.OneLine(err.Error()))
	}
	m.Refused = api.OneLine(m.Refused)
	set := 0
	for _, is := range []bool{m.Hello != nil, m.Attached, m.Welcome != nil, m.Totals != nil, m.Refused != ""} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return nil, errors.New("the other gateway's message is of no known kind")
	case m.Totals != nil:
		return &m, m.Totals.check()
	case m.Welcome != nil && len(m.Welcome.Cgroups) == 0:
		return nil, errors.New("the other gateway does not name its cgroup")
	case m.Hello != nil && m.Hello.Cgroup == 0:
		return nil, errors.New("the other gateway does not name its cgroup")
	}
	return &m, nil
}

// check returns why totals cannot be used, and makes their texts harmless.
func (t *Totals) check() error {
	if len(t.Outside) > api.MaxStrangers || len(t.Strangers) > api.MaxStrangers || len(t.Refused) > api.MaxStrangers || len(t.Unencrypted) > 1<<10 {
		return errors.New("the other gateway's totals have too many entries")
	}
	for i := range t.Unencrypted {
		u := &t.Unencrypted[i]
		if u.Direction != api.Inbound && u.Direction != api.Outbound {
			return errors.New("the other gateway's totals have an unknown direction")
		}
		u.Reason = api.OneLine(u.Reason)
	}
	for _, list := range [][]api.Stranger{t.Strangers, t.Refused} {
		for _, s := range list {
			if !s.Client.IsValid() || s.Client.Zone() != "" {
				return errors.New("the other gateway's totals have a client without an address")
			}
		}
	}
	for _, o := range t.Outside {
		if !o.Network.IsValid() {
			return errors.New("the other gateway's totals have a network without an address")
		}
	}
	if t.Edges == nil {
		return nil
	}
	return checkEdges(t.Edges)
}
