//go:build linux

package proxy

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// sweepInterval is how often open connections are looked at. It also bounds
// how old the byte counts of open connections are.
const sweepInterval = 5 * time.Second

var errReset = errors.New("connection was reset")

// sweep aborts connections that no read or write would find to be dead, and gives sockets the options
// that applications have set meanwhile, until ctx is done. How long a silent peer is waited for is
// left to the kernel, as without gateways. While there is nothing to sweep it rests.
func (p *Proxy) sweep(ctx context.Context) {
	interval := cmp.Or(p.options.sweep, sweepInterval)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.many.ready:
			p.parkCrowd()
			continue
		case <-ticker.C:
		}
		select {
		case <-p.awake:
		default:
		}
		stirred := p.stirred.Swap(false)
		p.closeEnded()
		p.live.accountAll()
		p.carriers.expire(time.Now())
		p.begun.expire(time.Now())
		open := p.live.snapshot()
		for _, c := range open {
			p.inspect(c)
		}
		p.parkIdle(open)
		// What is added from here on wakes it.
		if stirred || p.hasToSweep() {
			continue
		}
		ticker.Stop()
		p.rest()
		select {
		case <-ctx.Done():
			return
		case <-p.awake:
		}
		ticker.Reset(interval)
	}
}

// rest says that it is time to give memory back.
func (p *Proxy) rest() {
	if p.options.Resting != nil {
		p.options.Resting()
	}
}

// stir wakes the sweeper. It is called after something was added that has to be swept.
func (p *Proxy) stir() {
	if p.stirred.Load() || p.stirred.Swap(true) {
		return
	}
	select {
	case p.awake <- struct{}{}:
	default:
	}
}

func (p *Proxy) hasToSweep() bool {
	return p.live.count() > 0 || p.carriers.any() || p.begun.anyUnheard() || p.spent.any() || p.used.any()
}

func (p *Proxy) inspect(c *connection) {
	c.mu.Lock()
	sockets := c.sockets
	c.mu.Unlock()
	for _, socket := range sockets {
		if socket != nil && hasError(socket) {
			c.abort(errReset)
			return
		}
	}
	c.tune(true)
}

// hasError reports whether the kernel has a pending error for s: a RST that came while
// the relay waits for the other side to read.
func hasError(s stream) (failed bool) {
	_ = onSocket(s, func(fd int) error {
		failed = pollError(uintptr(fd))
		return nil
	})
	return failed
}
