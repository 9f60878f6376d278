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
	connection *api.Connection
	message    *message
	// raw is a line in a form that no gateway writes.
	raw []byte
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
	if text == api.ConnectionMessage {
		var connection api.Connection
		if json.Unmarshal(line, &connection) != nil {
			return entry{raw: line}
		}
		return entry{connection: &connection}
	}
	m := message{text: text, fields: fields}
	if json.Unmarshal(fields["time"], &m.time) != nil || json.Unmarshal(fields["level"], &m.level) != nil {
		return entry{raw: line}
	}
	for _, key := range []string{"time", "level", "msg"} {
		delete(fields, key)
	}
	return entry{message: &m}
}

// shown reports whether e is of interest: a connection, a warning, an error, or raw.
func (e *entry) shown() bool { return e.message == nil || e.message.level >= slog.LevelWarn }
