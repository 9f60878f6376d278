//go:build linux

package handoff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/metrics"
)

// question is the whole packet with which the exporter asks for a status.
const question byte = 's'

// maxAnswer bounds an answer, in bytes. Its longest text is the identity, a SPIFFE ID of at
// most 2048 bytes, each of which JSON may write as six; its longest list is that of the
// reasons, some 4 KiB with one of each.
const maxAnswer = 32 << 10

// answer holds a status, or nothing if the gateway cannot make one.
type answer struct {
	Status *api.Status `json:"status,omitempty"`
}

// encodeAnswer returns the packet that answers a question: the part of the status that is in
// metrics. A nil status stands for none.
func encodeAnswer(status *api.Status) ([]byte, error) {
	var a answer
	if status != nil {
		a.Status = metrics.Reduce(status)
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("writing a status: %w", err)
	}
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("a status has %d bytes, more than %d", len(text), maxAnswer)
	}
	return text, nil
}

var errNoStatus = errors.New("the gateway has no status")

// parseAnswer reads what encodeAnswer wrote. Both ends are one build, so anything else is an
// error.
func parseAnswer(packet []byte) (*api.Status, error) {
	var a answer
	if err := parseStrictly(packet, maxAnswer, &a); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if a.Status == nil {
		return nil, errNoStatus
	}
	return a.Status, nil
}

// parseStrictly reads one value of JSON in at most limit bytes, without anything unknown.
func parseStrictly(text []byte, limit int, to any) error {
	if len(text) > limit {
		return fmt.Errorf("it has more than %d bytes", limit)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(to); err != nil {
		return err
	}
	if decoder.More() {
		return errors.New("it does not end where it should")
	}
	return nil
}
