package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/leaderelection"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

// leaseGrace is how long a leader may work after the end of its lease before it counts
// as stuck.
const leaseGrace = 20 * time.Second

// watchHealth answers the probes of a kubelet.
type watchHealth struct {
	// ready reports whether the caches are filled.
	ready func() bool
	// metrics are those of a replica that leads or not.
	metrics func(leads bool, now time.Time) *api.Metrics
	// waits is true while another replica leads: a stand-by is ready.
	waits atomic.Bool
	lease *leaderelection.HealthzAdaptor
}

// standBy makes h answer for a replica that waits to be elected.
func (h *watchHealth) standBy(election *watch.Election) {
	h.waits.Store(true)
	h.lease = leaderelection.NewLeaderHealthzAdaptor(leaseGrace)
	election.Health = h.lease
}

func (h *watchHealth) leads() { h.waits.Store(false) }

// ServeHTTP implements http.Handler.
func (h *watchHealth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	switch r.URL.Path {
	case "/healthz":
		if h.lease != nil {
			err = h.lease.Check(r)
		}
	case "/readyz":
		if !h.waits.Load() && !h.ready() {
			err = fmt.Errorf("the pods are not known yet")
		}
	case "/metrics":
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		fmt.Fprint(w, output.Exposition(h.metrics(!h.waits.Load(), time.Now())))
		return
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// serve listens at address until a call of stop, or until it calls failed.
func (h *watchHealth) serve(address string, failed func(error)) (stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening at --health-addr: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			failed(fmt.Errorf("serving at --health-addr: %w", err))
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	}, nil
}
