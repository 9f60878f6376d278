package tail

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Source is the pod that a line comes from.
type Source struct {
	Namespace string
	Pod       string
}

// entry is the content of one line of a gateway's log: a connection, a message, or raw.
type entry struct {
	number     number
	connection *api.Connection
	message    *message
	// raw is a line in a form that no gateway writes.
	raw []byte
}

// number is the place of a line among those of one process. It is zero in lines of gateways that
// do not count.
type number struct {
	By string
	N  uint64
}

// message is a line without a connection.
type message struct {
	time   time.Time
	level  slog.Level
	text   string
	fields map[string]json.RawMessage
}

// parse never fails: a line that it does not understand is raw.
func parse(line []byte) entry {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil || fields == nil {
		return entry{raw: line}
	}
	var text string
	if json.Unmarshal(fields["msg"], &text) != nil {
		return entry{raw: line}
	}
	var at number
	if json.Unmarshal(fields[api.LogNumber], &at.N) != nil || fields[api.LogBy] != nil && json.Unmarshal(fields[api.LogBy], &at.By) != nil {
		at = number{}
	}
	if text == api.ConnectionMessage {
		var connection api.Connection
		if json.Unmarshal(line, &connection) != nil {
			return entry{raw: line}
		}
		return entry{number: at, connection: &connection}
	}
	m := message{text: text, fields: fields}
	if json.Unmarshal(fields["time"], &m.time) != nil || json.Unmarshal(fields["level"], &m.level) != nil {
		return entry{raw: line}
	}
	for _, key := range []string{"time", "level", "msg", api.LogNumber, api.LogBy} {
		delete(fields, key)
	}
	return entry{number: at, message: &m}
}

// shown reports whether e is of interest: a connection, a warning, an error, or raw.
func (e *entry) shown() bool { return e.message == nil || e.message.level >= slog.LevelWarn }

// dropped returns how many lines a gateway says that it has not written.
func (e *entry) dropped() (lines uint64) {
	if e.message != nil && e.message.text == api.LinesDroppedMessage {
		_ = json.Unmarshal(e.message.fields["lines"], &lines)
	}
	return lines
}

// newLevel returns which connections are logged from this line on, "" if it does not say.
func (e *entry) newLevel() (level api.Log) {
	if e.message != nil && e.message.text == api.SettingsMessage {
		_ = json.Unmarshal(e.message.fields["log"], &level)
	}
	return level
}
