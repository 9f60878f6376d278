//go:build linux

package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/metrics"
)

// Path is the path of the metrics. There is no other.
const Path = "/metrics"

// Limits of one client, and of all of them together.
const (
	// maxConnections is how many are served at a time; others wait in the listener's backlog.
	maxConnections = 32
	// maxHeader bounds a request in bytes: a scraper's headers have a few hundred,
	// and perhaps a token that is of no use here.
	maxHeader = 8 << 10
	// readTimeout is for a request, askTimeout for the gateway's status: less than
	// Prometheus' default scrape_timeout of 10 s.
	readTimeout = 5 * time.Second
	askTimeout  = 8 * time.Second
	// writeTimeout is from the end of a request's header to the end of the response.
	writeTimeout = 15 * time.Second
	// endTimeout is for scrapes under way when the gateway ends.
	endTimeout = time.Second
)

// Serve serves metrics on ln until ctx is done or the supervisor's end of the asker's
// socket is closed. It closes both.
func Serve(ctx context.Context, ln net.Listener, asker *handoff.Asker) error {
	server := &http.Server{
		Handler:           handler(asker.Ask),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeader,
		// Errors of strangers would flood the log.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	// An idle connection between two scrapes would delay draining and count against
	// maxConnections.
	server.SetKeepAlivesEnabled(false)
	defer context.AfterFunc(ctx, asker.Close)()
	listened := make(chan error, 1)
	go func() {
		err := asker.Listen()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		listened <- err
	}()
	if err := server.Serve(netutil.LimitListener(ln, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
		asker.Close()
		<-listened
		return fmt.Errorf("serving metrics: %w", err)
	}
	err := <-listened
	asker.Close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// handler serves the metrics of the status that ask returns.
func handler(ask func(context.Context) (*api.Status, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		switch {
		case r.URL.Path != Path:
			http.Error(w, "the only path is "+Path, http.StatusNotFound)
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "use GET", http.StatusMethodNotAllowed)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		status, err := ask(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		// Compressing would cost more memory than all the rest. What ends a client's connection is its own business.
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = metrics.Write(w, status)
	})
}
