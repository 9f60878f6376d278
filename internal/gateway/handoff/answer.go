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

// maxAnswer bounds an answer, in bytes. Of the texts in it the longest is the identity,
// a SPIFFE ID, of at most 2048 bytes, each of which JSON may write as six; of the lists
// that of the reasons, some 4 KiB if there is one of each.
const maxAnswer = 32 << 10

// answer is what comes back: a status, or nothing if there is none to be had just now.
type answer struct {
	Status *api.Status `json:"status,omitempty"`
}

// encodeAnswer returns the packet that answers a question: what metrics are made of, and
// nothing else of a status. A nil status stands for none.
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

var errNoStatus = errors.New("the gateway cannot say how it is")

// parseAnswer reads what encodeAnswer wrote. Asker and asked are one build, so that anything
// else is an error.
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
