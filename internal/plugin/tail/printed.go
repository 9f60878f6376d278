package tail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Printed makes lines of what [JSON] does.
type Printed struct {
	// Print prints one object. It is called once at a time.
	Print func(io.Writer, any) error
	one   sync.Mutex
}

// Format is as Text's. It fails if the printer does.
func (p *Printed) Format(source Source, line []byte) ([]byte, error) {
	object, err := JSON{}.Format(source, line)
	if object == nil || err != nil {
		return nil, err
	}
	p.one.Lock()
	defer p.one.Unlock()
	var made bytes.Buffer
	if err := p.Print(&made, json.RawMessage(object)); err != nil {
		return nil, fmt.Errorf("printing a line: %w", err)
	}
	if !bytes.HasSuffix(made.Bytes(), []byte("\n")) {
		made.WriteByte('\n')
	}
	return made.Bytes(), nil
}
