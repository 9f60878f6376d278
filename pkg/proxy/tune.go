//go:build linux

package proxy

import (
	"unique"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// tune gives the socket that leads to the other pod the options that the application has set on its
// own, as far as they have changed. Nothing depends on its success.
//
// keep has the kernel find out that an idle peer is gone for good, if the application does not ask for
// keepalive: by default after two hours and eleven minutes. It frees the memory of the connection. Told so once, tune
// goes on with it.
func (c *connection) tune(keep bool) {
	c.mu.Lock()
	app, wire := c.sockets[0], c.sockets[1]
	c.keeps = c.keeps || keep
	keep = c.keeps
	c.mu.Unlock()
	if !c.dialled() {
		app, wire = wire, app
	}
	if app == nil || wire == nil {
		return
	}
	var want tuning.Tuning
	if err := onSocket(app, func(fd int) (err error) {
		want, err = c.proxy.options.Sockets.Tuning(fd)
		return err
	}); err != nil {
		return
	}
	if keep {
		want.KeepIfSilent()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if want == c.tuned.Value() && wire == c.tunedWire || c.sockets[0] != wire && c.sockets[1] != wire {
		return
	}
	var was tuning.Tuning
	if wire == c.tunedWire {
		was = c.tuned.Value()
	}
	_ = onSocket(wire, func(fd int) error { return want.Apply(fd, &was, c.proxy.times) })
	if want != c.tuned.Value() {
		c.tuned = unique.Make(want)
	}
	c.tunedWire = wire
}

// tuneEarly is tune with the first data from the application, when most have set their options.
func (c *connection) tuneEarly() { c.tune(false) }

// tunedBy notes at the end of c what it has set, which the next connection inherits until its first data,
// and reports whether that can be taken back.
func (k *carrier) tunedBy(c *connection) bool {
	c.mu.Lock()
	tuned := c.tuned
	c.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tuned = tuned
	return tuned.Value().Congestion == ""
}
