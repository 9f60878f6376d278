package api

import (
	"cmp"
	"fmt"
	"slices"
)

// Log says which connections a gateway logs. Its errors and changes of its state are logged
// whatever it says. Empty means LogConnections.
type Log string

const (
	// LogConnections logs every connection.
	LogConnections Log = "connections"
	// LogRefused logs the connections that are refused, and those that the identity rules would
	// refuse if they did not only audit.
	LogRefused Log = "refused"
	// LogNone logs no connection.
	LogNone Log = "none"
)

// Logs returns all values of a Log, the one that logs most first.
func Logs() []Log { return []Log{LogConnections, LogRefused, LogNone} }

// OrDefault returns l, or LogConnections if l is empty.
func (l Log) OrDefault() Log { return cmp.Or(l, LogConnections) }

const (
	// DefaultLogLimit is how many bytes of log a gateway writes in an hour, unless it is told
	// otherwise: the five files of 10 MiB that a kubelet keeps of a container by default
	// (KubeletConfiguration: containerLogMaxFiles, containerLogMaxSize) hold more than an hour.
	DefaultLogLimit = 32 << 20
	// MinLogLimit is the least limit. Less has no room for a few of the longest lines.
	MinLogLimit = 1 << 20
	// LogBurst is the part of the limit of an hour that may be written at once, as a divisor.
	LogBurst = 8
	// KubeletLogs is how many bytes a kubelet keeps of a container's log by default. It looks at
	// the size every ten seconds (containerLogMonitorInterval), so what is written at once comes
	// on top.
	KubeletLogs = 5 * 10 << 20
)

// LogConfig is what a gateway is told about its log.
type LogConfig struct {
	Log Log `json:"log,omitempty"`
	// LogLimit is how many bytes are written in an hour. 0 means DefaultLogLimit.
	LogLimit int64 `json:"logLimit,omitempty"`
	// LogTotal is how many bytes are written in all, for a pod that is evicted for more. 0 means
	// that there is no such bound.
	LogTotal int64 `json:"logTotal,omitempty"`
}

// LimitOrDefault returns the limit of an hour in bytes.
func (c *LogConfig) LimitOrDefault() int64 { return cmp.Or(c.LogLimit, DefaultLogLimit) }

func (c *LogConfig) validate() error {
	switch {
	case c.Log != "" && !slices.Contains(Logs(), c.Log):
		return fmt.Errorf("log %q is none of %q, %q and %q", c.Log, LogConnections, LogRefused, LogNone)
	case c.LogLimit != 0 && c.LogLimit < MinLogLimit:
		return fmt.Errorf("a log of %d bytes an hour is less than %d", c.LogLimit, MinLogLimit)
	case c.LogTotal < 0:
		return fmt.Errorf("a log of %d bytes in all is negative", c.LogTotal)
	}
	return nil
}

// LogStatus describes a gateway's log.
type LogStatus struct {
	// Level is which connections are logged. It is empty for a gateway that cannot say.
	Level Log `json:"level"`
	// Limit bounds the bytes of an hour, Total those in all; 0 is no bound.
	Limit int64 `json:"limit"`
	Total int64 `json:"total,omitempty"`
	// Lines and Bytes count what was written, with the container runtime's part of each line.
	Lines uint64 `json:"lines"`
	Bytes uint64 `json:"bytes"`
	// DroppedLines and DroppedBytes count what was not, because of a bound or a full pipe.
	DroppedLines uint64 `json:"droppedLines,omitempty"`
	DroppedBytes uint64 `json:"droppedBytes,omitempty"`
}

// Words of a gateway's log that programs search for.
const (
	// LinesDroppedMessage is "msg" of the line that counts lines which were not written, in its
	// field "lines".
	LinesDroppedMessage = "log lines dropped"
	// SettingsMessage is "msg" of the line about new settings. Its field "log" says what is logged
	// from then on, if that has changed.
	SettingsMessage = "settings changed"
	// LogNumber is the field that numbers lines: each process of a gateway counts its own from 1,
	// those of all workers together. LogBy tells the supervisor's lines from the workers'.
	LogNumber     = "n"
	LogBy         = "by"
	LogSupervisor = "supervisor"
)
