//go:build linux

package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// A reply is a kind, a number, and for a refusal words. It is all that the privileged half
// reads from the worker, so it is short and of a fixed form.
const (
	// replyHidden: no process of the worker's user can read its memory. Its number is 0.
	replyHidden = 'h'
	// replyReady: the worker accepts connections. Its number is its confinement.
	replyReady = 'r'
	// replyApplied and replyRefused answer the settings of that number.
	replyApplied = 'k'
	replyRefused = 'e'

	replyHeader = 9 // kind, number
	maxReply    = 1024
)

type reply struct {
	kind   byte
	number uint64
	// words say why settings were refused: one line, printable.
	words string
}

func (r reply) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{r.kind}, r.number)
	b = append(b, r.words...)
	return b[:min(len(b), maxReply)]
}

// maxConfinement bounds encodeConfinement: ABIs of Landlock have small numbers.
const maxConfinement = 1<<16 - 1

// encodeConfinement returns a confinement as a number.
func encodeConfinement(c api.Confinement) uint64 {
	n := uint64(c.Landlock) << 1
	if c.Seccomp {
		n |= 1
	}
	return min(n, maxConfinement)
}

func decodeConfinement(n uint64) api.Confinement {
	return api.Confinement{Seccomp: n&1 != 0, Landlock: int(n >> 1)}
}

// parseReply reads one packet. It is strict: a worker that sends anything else is broken, or
// another program.
func parseReply(b []byte) (reply, error) {
	if len(b) < replyHeader || len(b) > maxReply {
		return reply{}, fmt.Errorf("the worker's message has %d bytes", len(b))
	}
	r := reply{kind: b[0], number: binary.BigEndian.Uint64(b[1:replyHeader])}
	rest := b[replyHeader:]
	switch {
	case r.kind == replyRefused:
		r.words = api.OneLine(string(rest))
	case r.kind != replyHidden && r.kind != replyReady && r.kind != replyApplied:
		return reply{}, errors.New("the worker's message is of an unknown kind")
	case len(rest) > 0:
		return reply{}, errors.New("the worker's message is too long for its kind")
	case r.kind == replyHidden && r.number != 0, r.kind == replyReady && r.number > maxConfinement:
		return reply{}, errors.New("the worker's message has a number out of place")
	}
	return r, nil
}
