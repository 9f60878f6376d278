package traffic

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
)

// Counters counts the connections of a gateway. It has a fixed size and no pointers, so that it
// can lie in memory that two processes share: the worker counts, the supervisor reads, and the
// totals survive a worker that crashes. Its zero value is ready for use.
type Counters struct {
	outbound, inbound Counts
	// Ended counts connections that are over, Aborted those of them that were reset
	// because the gateway ended.
	Ended, Aborted atomic.Uint64
	// Log bounds the log of workers.
	Log journal.Budget
}

// Counts are the counters of one direction. See api.Direction for what they mean.
type Counts struct {
	Active                                        atomic.Int64
	Encrypted, Plaintext, Refused                 atomic.Uint64
	Inband, NotAllowed, OptionLost, OptionDropped atomic.Uint64
	Audited, Reset                                atomic.Uint64
	Sent, Received                                atomic.Uint64
	because                                       [reasons]atomic.Uint64
}

// Of returns the counters of a direction.
func (c *Counters) Of(d Direction) *Counts {
	if d == Inbound {
		return &c.inbound
	}
	return &c.outbound
}

// Because counts why a connection is not encrypted.
func (c *Counts) Because(r Reason) { c.because[r].Add(1) }

// ResetActive sets the numbers of open connections to zero, after the process that had them has
// ended.
func (c *Counters) ResetActive() {
	c.outbound.Active.Store(0)
	c.inbound.Active.Store(0)
}

// Traffic returns the counts so far. Bytes of open connections are included up to a few
// seconds ago.
func (c *Counters) Traffic() api.Traffic {
	return api.Traffic{Outbound: c.outbound.read(), Inbound: c.inbound.read()}
}

func (c *Counts) read() api.Direction {
	return api.Direction{
		Active:     c.Active.Load(),
		Encrypted:  c.Encrypted.Load(),
		Plaintext:  c.Plaintext.Load(),
		Refused:    c.Refused.Load(),
		Inband:     c.Inband.Load(),
		NotAllowed: c.NotAllowed.Load(),
		Audited:    c.Audited.Load(),
		Reset:      c.Reset.Load(),
		OptionLost: c.OptionLost.Load(), OptionDropped: c.OptionDropped.Load(),
		Sent:     c.Sent.Load(),
		Received: c.Received.Load(),
	}
}

// Unencrypted returns why connections were refused or carried in plaintext so far, without
// the reasons that have not occurred, in the order of their words.
func (c *Counters) Unencrypted() []api.Unencrypted {
	var all []api.Unencrypted
	for _, d := range Directions() {
		begin := len(all)
		for r := range reasons {
			if n := c.Of(d).because[r].Load(); n > 0 {
				all = append(all, api.Unencrypted{Direction: d.String(), Reason: r.Word(), Connections: n})
			}
		}
		slices.SortFunc(all[begin:], func(a, b api.Unencrypted) int { return cmp.Compare(a.Reason, b.Reason) })
	}
	return all
}
