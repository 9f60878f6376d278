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
	if len(packet) > maxAnswer {
		return nil, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	decoder := json.NewDecoder(bytes.NewReader(packet))
	decoder.DisallowUnknownFields()
	var a answer
	if err := decoder.Decode(&a); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("the answer does not end where it should")
	}
	if a.Status == nil {
		return nil, errNoStatus
	}
	return a.Status, nil
}
