package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// cast is the recording of a terminal, in asciicast's format, version 2: a line of
// JSON about the terminal, and one for each piece of output.
type cast struct {
	Version int      `json:"version"`
	Width   int      `json:"width"`
	Height  int      `json:"height"`
	Title   string   `json:"title,omitempty"`
	events  []output `json:"-"`
}

// output is what was written at a time since the beginning.
type output struct {
	at   time.Duration
	text string
}

// Bounds of what is read.
const (
	maxSide   = 300
	maxEvents = 10_000
)

func (c *cast) encode() []byte {
	var out bytes.Buffer
	line := json.NewEncoder(&out)
	line.SetEscapeHTML(false)
	// Neither can fail: there is nothing in them that JSON cannot hold.
	_ = line.Encode(c)
	for _, e := range c.events {
		_ = line.Encode([]any{json.Number(fmt.Sprintf("%.3f", e.at.Seconds())), "o", e.text})
	}
	return out.Bytes()
}

func parseCast(text []byte) (*cast, error) {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var c cast
	if err := json.Unmarshal([]byte(lines[0]), &c); err != nil {
		return nil, fmt.Errorf("line 1: %w", err)
	}
	if c.Version != 2 || c.Width < 1 || c.Width > maxSide || c.Height < 1 || c.Height > maxSide || len(lines) > maxEvents {
		return nil, fmt.Errorf("line 1: a recording of version 2 with at most %d×%d characters and %d events is needed", maxSide, maxSide, maxEvents)
	}
	for i, line := range lines[1:] {
		var (
			at         float64
			kind, text string
		)
		if err := json.Unmarshal([]byte(line), &[]any{&at, &kind, &text}); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+2, err)
		}
		e := output{time.Duration(at * float64(time.Second)), text}
		if kind != "o" || i > 0 && e.at < c.events[i-1].at {
			return nil, fmt.Errorf("line %d: output in its order is needed", i+2)
		}
		c.events = append(c.events, e)
	}
	return &c, nil
}
