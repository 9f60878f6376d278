package tail

import (
	"encoding/json"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// JSON makes lines for programs: the gateway's own, with "namespace" and "pod" set. A
// line that is not a JSON object becomes an object with the line in "raw".
type JSON struct{}

// Format is as Text's.
func (JSON) Format(source Source, line []byte) ([]byte, error) {
	e := parse(line)
	if !e.shown() {
		return nil, nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(line, &fields) != nil || fields == nil {
		fields = map[string]json.RawMessage{"raw": quote(string(line))}
	}
	// The gateway's own values of these two are not trusted.
	fields["namespace"], fields["pod"] = quote(source.Namespace), quote(source.Pod)
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, nil
	}
	return append(terminal.CleanJSON(text), '\n'), nil
}

func quote(text string) json.RawMessage {
	// A string always has a JSON form.
	quoted, _ := json.Marshal(text)
	return quoted
}
