package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// hello is the text of a client's first message.
type hello struct {
	// Interval is the time between messages of the server; 0 means none but the
	// last.
	Interval time.Duration `json:"interval"`
}

// errUnused means that a connection was reset before anything came.
var errUnused = errors.New("nothing came")

// served counts what clients of portTraffic did at this server.
type served struct {
	damage
	Connections, Complete, Messages, Unused, Resets, Failed atomic.Uint64
	Held                                                    atomic.Int64
}

// summary is what GET /served answers.
func (s *served) summary() appreport.Served {
	return appreport.Served{
		Connections: s.Connections.Load(), Held: s.Held.Load(), Complete: s.Complete.Load(), Unused: s.Unused.Load(), Resets: s.Resets.Load(),
		Failed: s.Failed.Load(), Messages: s.Messages.Load(), Damage: s.damage.summary(),
	}
}

// handle serves one connection: it checks what the client sends, sends messages
// of its own meanwhile, and answers the client's last message by its own last
// one, whose text is the number of messages that it received.
func (s *served) handle(c *net.TCPConn) error {
	s.Connections.Add(1)
	err := s.judge(s.exchange(c))
	switch {
	case err == nil:
		s.Complete.Add(1)
	case errors.Is(err, errUnused):
		s.Unused.Add(1)
	case isReset(err):
		s.Resets.Add(1)
	default:
		s.Failed.Add(1)
	}
	return err
}

func (s *served) exchange(c *net.TCPConn) error {
	reader := bufio.NewReader(c)
	number, err := reader.Peek(8)
	if err != nil {
		if err == io.EOF {
			return errTruncated
		}
		if isReset(err) && reader.Buffered() == 0 {
			return errors.Join(errUnused, err)
		}
		return err
	}
	in := checker{r: reader, stream: binary.BigEndian.Uint64(number), damage: &s.damage}
	out := sender{w: c, stream: in.stream + 1}
	first, err := in.receive()
	if err != nil {
		return err
	}
	var h hello
	if err := json.Unmarshal(first.text, &h); err != nil {
		return fmt.Errorf("reading the first message: %w", err)
	}
	s.Messages.Add(1)
	if !first.last {
		s.Held.Add(1)
		defer s.Held.Add(-1)
	}

	stop := make(chan struct{})
	var sending sync.WaitGroup
	var sent error // of the sending
	defer sending.Wait()
	stopSending := sync.OnceFunc(func() { close(stop) })
	defer stopSending()
	if h.Interval > 0 && !first.last {
		sending.Go(func() {
			ticker := time.NewTicker(h.Interval)
			defer ticker.Stop()
			for {
				select {
				case <-stop:
					return
				case <-ticker.C:
				}
				if sent = out.send(payload(out.next), false); sent != nil {
					return
				}
			}
		})
	}
	for last := first.last; !last; {
		m, err := in.receive()
		if err != nil {
			stopSending()
			sending.Wait()
			return errors.Join(err, sent)
		}
		s.Messages.Add(1)
		last = m.last
	}
	stopSending()
	sending.Wait()
	if err := out.send(binary.BigEndian.AppendUint64(nil, in.next), true); err != nil {
		return err
	}
	halfClosed := c.CloseWrite()
	if _, err := in.receive(); err != io.EOF {
		return errors.Join(err, halfClosed)
	}
	return halfClosed
}

// payload returns the text of a message, between 1 byte and 4 KiB.
func payload(sequence uint64) []byte {
	text := make([]byte, 1+sequence*977%4096)
	for i := range text {
		text[i] = byte(sequence) + byte(i)
	}
	return text
}

// trafficControl lets commands in the same container start and stop traffic,
// which so does not depend on the command's own connection.
type trafficControl struct {
	served  *served
	mu      sync.Mutex
	running *traffic
}

func (c *trafficControl) register(mux *http.ServeMux) {
	mux.HandleFunc("POST /traffic", c.start)
	mux.HandleFunc("GET /traffic", c.show)
	mux.HandleFunc("DELETE /traffic", c.stop)
	mux.HandleFunc("GET /served", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(c.served.summary())
	})
}

func (c *trafficControl) start(w http.ResponseWriter, r *http.Request) {
	var options trafficOptions
	if err := json.NewDecoder(r.Body).Decode(&options); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		http.Error(w, "traffic runs already", http.StatusConflict)
		return
	}
	c.running = startTraffic(options)
	json.NewEncoder(w).Encode(c.running.summary())
}

func (c *trafficControl) show(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		http.Error(w, "no traffic runs", http.StatusNotFound)
		return
	}
	json.NewEncoder(w).Encode(c.running.summary())
}

func (c *trafficControl) stop(w http.ResponseWriter, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		http.Error(w, "no traffic runs", http.StatusNotFound)
		return
	}
	c.running.stop()
	json.NewEncoder(w).Encode(c.running.summary())
	c.running = nil
}
