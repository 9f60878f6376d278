// Package appreport has what the test application prints, for it and for those who read it.
package appreport

import (
	"fmt"
	"time"
)

// Result is what a client prints.
type Result struct {
	// Local and Peer are the addresses that the client's socket reports.
	Local string `json:"local,omitempty"`
	Peer  string `json:"peer,omitempty"`
	// Received is the text that came back.
	Received string `json:"received,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`
	Equal    bool   `json:"equal,omitempty"`
	Count    int    `json:"count,omitempty"`
	Error    string `json:"error,omitempty"`
	// NotPermitted says that connect(2) itself failed with EPERM.
	NotPermitted bool `json:"notPermitted,omitempty"`
}

// Damage counts what happened to streams.
type Damage struct {
	Lost       uint64 `json:"lost"`
	Duplicated uint64 `json:"duplicated"`
	Altered    uint64 `json:"altered"`
	Truncated  uint64 `json:"truncated"`
}

// Traffic is what constant traffic has come to.
type Traffic struct {
	// Requests counts the requests that were answered, by target as well.
	Requests uint64            `json:"requests"`
	Targets  map[string]uint64 `json:"targets"`
	// Held counts the connections that are open, Messages what they received.
	Held     int       `json:"held"`
	Messages uint64    `json:"messages"`
	Failures int       `json:"failures"`
	Failed   []Failure `json:"failed,omitempty"`
	// Damage is that of what was received here.
	Damage
	// LongestWait is the longest time that an answered request took, LongestGap
	// the longest time between two messages of one held connection.
	LongestWait time.Duration `json:"longestWait"`
	LongestGap  time.Duration `json:"longestGap"`
}

// Failure is one connection that did not do what it should.
type Failure struct {
	// Opened is when the connection was asked for, Time when it failed.
	Opened time.Time `json:"opened"`
	Time   time.Time `json:"time"`
	Target string    `json:"target"`
	// Kind is held or request, Phase connect, exchange or end.
	Kind  string `json:"kind"`
	Phase string `json:"phase"`
	Error string `json:"error"`
	// Reset says that the connection was reset, Refused and NotPermitted that
	// connect(2) failed with ECONNREFUSED and EPERM.
	Reset        bool `json:"reset,omitempty"`
	Refused      bool `json:"refused,omitempty"`
	NotPermitted bool `json:"notPermitted,omitempty"`
}

func (f Failure) String() string {
	const clock = "15:04:05.000"
	return fmt.Sprintf("%s, opened %s, failed %s: %s to %s in %s: %s", f.Kind, f.Opened.Format(clock), f.Time.Format(clock), f.Kind, f.Target, f.Phase, f.Error)
}

// Served is what clients of traffic did at a server.
type Served struct {
	Connections uint64 `json:"connections"`
	// Held counts those that are open and whose client is to send more messages.
	Held int64 `json:"held"`
	// Complete counts those that ended as they should, Unused those that were
	// reset before their first byte, Resets the others that were reset, Failed
	// those with another error. The rest is open.
	Complete uint64 `json:"complete"`
	Unused   uint64 `json:"unused"`
	Resets   uint64 `json:"resets"`
	Failed   uint64 `json:"failed"`
	Messages uint64 `json:"messages"`
	Damage
}

// Open counts the connections that are open.
func (s *Served) Open() uint64 { return s.Connections - s.Complete - s.Unused - s.Resets - s.Failed }
