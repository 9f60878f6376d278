package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

const (
	// trafficDeadline is how long a connection may make no progress.
	trafficDeadline = 15 * time.Second
	// maxFailures is how many failures a summary lists.
	maxFailures = 100
)

// trafficOptions say what traffic is.
type trafficOptions struct {
	// Targets are addresses of portTraffic.
	Targets []string `json:"targets"`
	// Held is how many connections are kept open to each target, with a message
	// in both directions at every Interval.
	Held     int           `json:"held"`
	Interval time.Duration `json:"interval"`
	// Life ends each of them after that time, to be made anew; 0 is never.
	Life time.Duration `json:"life"`
	// Workers is how many make new connections to each target all the time, one
	// for every request, with Pause between them.
	Workers int           `json:"workers"`
	Pause   time.Duration `json:"pause"`
	// For ends the traffic after that time; 0 means that it is stopped.
	For time.Duration `json:"for"`
}

// traffic is constant traffic that runs.
type traffic struct {
	options trafficOptions
	stop    func()
	done    chan struct{}

	damage   damage
	held     atomic.Int64
	messages atomic.Uint64

	mu          sync.Mutex
	targets     map[string]uint64
	failures    int
	failed      []appreport.Failure
	longestWait time.Duration
	longestGap  time.Duration
}

// startTraffic starts traffic, which runs until its stop is called or for the
// time of its options. done is closed when every connection has ended.
func startTraffic(options trafficOptions) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	if options.For > 0 {
		ctx, cancel = context.WithTimeout(ctx, options.For)
	}
	t := &traffic{options: options, targets: map[string]uint64{}, done: make(chan struct{})}
	t.stop = func() { cancel(); <-t.done }
	var running sync.WaitGroup
	for _, target := range options.Targets {
		for range options.Held {
			running.Go(func() { t.repeat(ctx, target, "held", options.Interval, t.hold) })
		}
		for range options.Workers {
			running.Go(func() { t.repeat(ctx, target, "request", options.Pause, t.request) })
		}
	}
	go func() { running.Wait(); cancel(); close(t.done) }()
	return t
}

// repeat uses one connection after the other, until ctx ends.
func (t *traffic) repeat(ctx context.Context, target, kind string, pause time.Duration, use func(context.Context, string) (phase string, err error)) {
	for ctx.Err() == nil {
		opened := time.Now()
		phase, err := use(ctx, target)
		if err = t.damage.judge(err); err != nil {
			t.fail(appreport.Failure{
				Opened: opened, Time: time.Now(), Target: target, Kind: kind, Phase: phase, Error: err.Error(),
				Reset:        isReset(err),
				Refused:      errors.Is(err, syscall.ECONNREFUSED),
				NotPermitted: errors.Is(err, syscall.EPERM),
			})
		} else if kind == "request" {
			t.answered(target, time.Since(opened))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (t *traffic) fail(f appreport.Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures++; len(t.failed) < maxFailures {
		t.failed = append(t.failed, f)
	}
}

func (t *traffic) answered(target string, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.targets[target]++
	t.longestWait = max(t.longestWait, wait)
}

func (t *traffic) gap(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.longestGap = max(t.longestGap, d)
}

func (t *traffic) summary() appreport.Traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := appreport.Traffic{
		Targets: maps.Clone(t.targets), Held: int(t.held.Load()), Messages: t.messages.Load(),
		Failures: t.failures, Failed: t.failed[:len(t.failed):len(t.failed)],
		Damage:      t.damage.summary(),
		LongestWait: t.longestWait, LongestGap: t.longestGap,
	}
	for _, n := range t.targets {
		s.Requests += n
	}
	return s
}

// connection is one connection of traffic, begun by its first message.
type connection struct {
	*net.TCPConn
	in  checker
	out sender
}

// open connects, without regard to the end of the traffic: a connection that
// was begun is brought to its end.
func (t *traffic) open(target string, h hello, last bool) (*connection, string, error) {
	dialed, err := (&net.Dialer{Timeout: trafficDeadline}).Dial("tcp", target)
	if err != nil {
		return nil, "connect", err
	}
	c := &connection{TCPConn: dialed.(*net.TCPConn)}
	// Even: the server's stream has the number after it.
	number := rand.Uint64() &^ 1
	c.in = checker{r: bufio.NewReader(c), stream: number + 1, damage: &t.damage}
	c.out = sender{w: c, stream: number}
	text, err := json.Marshal(h)
	if err == nil {
		c.SetDeadline(time.Now().Add(trafficDeadline))
		err = c.out.send(text, last)
	}
	if err != nil {
		c.Close()
		return nil, "exchange", err
	}
	return c, "", nil
}

// end half-closes, reads what is still to come, and compares the server's count
// of messages with ours.
func (t *traffic) end(c *connection) (string, error) {
	c.SetDeadline(time.Now().Add(trafficDeadline))
	// Of a connection that was reset, only a read tells that.
	halfClosed := c.CloseWrite()
	for {
		m, err := c.in.receive()
		if err != nil {
			return "end", errors.Join(err, halfClosed)
		}
		t.messages.Add(1)
		if !m.last {
			continue
		}
		if len(m.text) != 8 || binary.BigEndian.Uint64(m.text) != c.out.next {
			t.damage.Lost.Add(1)
			return "end", fmt.Errorf("the server's last message is % x after %d messages", m.text, c.out.next)
		}
		if _, err := c.in.receive(); err != io.EOF {
			return "end", err
		}
		return "end", halfClosed
	}
}

// request is a connection with one message in each direction.
func (t *traffic) request(_ context.Context, target string) (string, error) {
	c, phase, err := t.open(target, hello{}, true)
	if err != nil {
		return phase, err
	}
	defer c.Close()
	return t.end(c)
}

// hold is a connection with messages in both directions until ctx ends.
func (t *traffic) hold(ctx context.Context, target string) (string, error) {
	c, phase, err := t.open(target, hello{Interval: t.options.Interval}, false)
	if err != nil {
		return phase, err
	}
	defer c.Close()
	t.held.Add(1)
	defer t.held.Add(-1)

	// The reader stops at the first error, and when told to, between messages.
	stopped := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		var err error
		for before := time.Now(); err == nil; {
			select {
			case <-stopped:
				failed <- nil
				return
			default:
			}
			c.SetReadDeadline(time.Now().Add(trafficDeadline))
			if _, err = c.in.receive(); err == nil {
				t.messages.Add(1)
				t.gap(time.Since(before))
				before = time.Now()
			}
		}
		failed <- err
	}()
	if t.options.Life > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.options.Life)
		defer cancel()
	}
	ticker := time.NewTicker(t.options.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			close(stopped) // the server's next message lets the reader see it
			if err := <-failed; err != nil {
				return "exchange", err
			}
			c.SetWriteDeadline(time.Now().Add(trafficDeadline))
			if err := c.out.send(nil, true); err != nil {
				_, received := c.in.receive()
				return "end", errors.Join(err, received)
			}
			return t.end(c)
		case err := <-failed:
			return "exchange", err
		case <-ticker.C:
			c.SetWriteDeadline(time.Now().Add(trafficDeadline))
			if err := c.out.send(payload(c.out.next), false); err != nil {
				c.SetReadDeadline(time.Now().Add(time.Second))
				return "exchange", errors.Join(err, <-failed)
			}
		}
	}
}

// trafficCommand is "app traffic [flags] ADDRESS...", which runs until SIGTERM,
// the end of its time or of its input; "app traffic start [flags] ADDRESS...",
// show and stop have the server in the same container do it.
func trafficCommand(ctx context.Context, args []string) error {
	const control = "http://127.0.0.1:9080/traffic"
	verb := ""
	if len(args) > 0 && (args[0] == "start" || args[0] == "show" || args[0] == "stop") {
		verb, args = args[0], args[1:]
	}
	var o trafficOptions
	flags := flag.NewFlagSet("traffic", flag.ContinueOnError)
	flags.IntVar(&o.Held, "held", 4, "connections that are kept open to each target")
	flags.DurationVar(&o.Interval, "interval", 50*time.Millisecond, "time between their messages")
	flags.DurationVar(&o.Life, "life", 0, "how long each of them is kept; 0 is for ever")
	flags.IntVar(&o.Workers, "workers", 1, "makers of new connections for each target")
	flags.DurationVar(&o.Pause, "pause", 20*time.Millisecond, "time between their connections")
	flags.DurationVar(&o.For, "for", 0, "how long; 0 is until it is stopped")
	input := flags.Bool("stdin", false, "stop at the end of the input")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.Targets = flags.Args()
	switch verb {
	case "start":
		text, err := json.Marshal(o)
		if err != nil {
			return err
		}
		return printAnswer(ctx, http.MethodPost, control, text)
	case "show":
		return printAnswer(ctx, http.MethodGet, control, nil)
	case "stop":
		return printAnswer(ctx, http.MethodDelete, control, nil)
	}
	if *input {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() { io.Copy(io.Discard, os.Stdin); cancel() }()
	}
	t := startTraffic(o)
	select {
	case <-ctx.Done():
		t.stop()
	case <-t.done:
	}
	return json.NewEncoder(os.Stdout).Encode(t.summary())
}

// printAnswer makes a request of the server in this container and prints the
// answer.
func printAnswer(ctx context.Context, method, url string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, text)
	}
	_, err = os.Stdout.Write(text)
	return err
}
