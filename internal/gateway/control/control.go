// Package control is the gateway's control socket: a Unix socket inside its
// own container, reached by exec. One connection carries one request and one
// answer, each a line of JSON.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// SocketPath is where the supervisor listens, in the container's own file system, which no other
// container of the pod can access.
const SocketPath = "/run/kube-gateway/control.sock"

// maxMessage bounds a request and an answer, in bytes.
const maxMessage = 1 << 20

// Values of Request.Op. The answer is an api.Status, unless another one is named.
const (
	OpStatus = "status"
	// OpStarted is answered when the containers behind a sidecar may start: it serves, or is disabled, or
	// PassAfter is over since it started. The error says what it waits for after Wait.
	OpStarted = "started"
	// OpMode changes the mode, OpAllow changes the identity rules, for connections from now
	// on. After an error nothing has changed.
	OpMode  = "mode"
	OpAllow = "allow"
	// OpCover changes the coverage, and what the user named of it, as OpMode does the mode.
	OpCover = "cover"
	// OpLog changes what is logged.
	OpLog = "log"
	// OpCSR makes a new key; the answer is an api.CertificateRequest for it. The key waits a
	// few minutes for OpCertificate, which brings the certificate into force for connections
	// from then on.
	OpCSR         = "csr"
	OpCertificate = "certificate"
	// OpTrust replaces the roots that the gateway trusts, for connections from
	// now on.
	OpTrust = "trust"
	// OpAnew has the next connection to each peer begin with a handshake, as if the settings had changed.
	OpAnew = "anew"
	// OpReset resets the application's plaintext connections into captured ranges.
	OpReset = "reset"
	// OpDisable stops the capture, lets connections drain and ends the gateway. The answer is
	// an api.DisableReport, after which the gateway ends. A second request joins the first.
	OpDisable = "disable"
	// OpInherited is answered with the edges of the gateways that this one has taken over from, as an
	// api.Edges.
	OpInherited = "inherited"
	// OpHandOver has a gateway wait for its successor; the answer is an api.Handover. Nothing
	// changes until the successor has come. Then it lets connections drain and ends.
	OpHandOver = "hand-over"
	// OpTakeOver has a gateway in api.Standby take over from the one that Handover names.
	OpTakeOver = "take-over"
)

// Request is what a client sends.
type Request struct {
	Op string `json:"op"`
	// Wait is how long OpStatus or OpStarted waits for the gateway to be ready, at most (nanoseconds).
	Wait time.Duration `json:"wait,omitempty"`
	// PassAfter is that of OpStarted, 0 for never.
	PassAfter time.Duration `json:"passAfter,omitempty"`
	// Mode is what OpMode changes to.
	Mode api.Mode `json:"mode,omitempty"`
	// Existing decides about open connections that OpMode or OpAllow forbids: api.ExistingLeave,
	// which empty means, or api.ExistingReset.
	Existing api.Existing `json:"existing,omitempty"`
	// Rules are those of OpAllow. Everyone allows all identities: an empty list does not, so that
	// nothing is allowed by mistake.
	api.Rules
	Everyone bool `json:"everyone,omitempty"`
	// Cover is what OpCover changes to.
	Cover *api.Cover `json:"cover,omitempty"`
	// Log is what OpLog changes to. LogLimit is the limit in bytes an hour, 0 to leave it.
	Log      api.Log `json:"log,omitempty"`
	LogLimit int64   `json:"logLimit,omitempty"`
	// Issued is what OpCertificate brings, Trust what OpTrust does.
	Issued *api.IssuedCertificate `json:"issued,omitempty"`
	Trust  *api.TrustBundle       `json:"trust,omitempty"`
	// DrainTimeout is how long OpDisable and OpHandOver let connections drain (nanoseconds).
	DrainTimeout time.Duration `json:"drainTimeout,omitempty"`
	// Handover is what OpTakeOver needs.
	Handover *api.Handover `json:"handover,omitempty"`
}

// response is what the server sends: a result or an error.
type response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
	Hint   string          `json:"hint,omitempty"`
}

// Handler answers a request with a value that can be encoded as JSON.
type Handler func(ctx context.Context, r Request) (any, error)

// ErrRuns says that a gateway answers at a control socket.
var ErrRuns = errors.New("a gateway runs in this container already")

// Free returns ErrRuns if a gateway listens at path.
func Free(path string) error {
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	if err == nil || errors.Is(err, syscall.EAGAIN) {
		return ErrRuns
	}
	return nil
}

// Listen opens a Unix socket at path, for root alone. It replaces that of a dead gateway, and
// fails with ErrRuns where one runs.
func Listen(path string) (*net.UnixListener, error) {
	if err := Free(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("creating the socket's directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("protecting the socket: %w", err)
	}
	return ln, nil
}

// Serve answers requests on ln until ctx is done. Then it waits for the answers to those under
// way, whose context is done as well.
func Serve(ctx context.Context, ln net.Listener, handle Handler) error {
	return accept(ctx, ln, func(conn net.Conn) { serveOne(ctx, conn, maxMessage, handle) })
}

// accept calls serve with each connection, and returns as Serve does.
func accept(ctx context.Context, ln net.Listener, serve func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("accepting on the control socket: %w", err)
		}
		serving.Go(func() { serve(conn) })
	}
}

// requestTimeout bounds the reading of a request, and the writing of an answer.
const requestTimeout = 5 * time.Second

// hangUpTimeout is how long a client may take to use its answer.
const hangUpTimeout = 2 * time.Second

// serveOne serves a connection whose request has at most limit bytes.
func serveOne(ctx context.Context, conn net.Conn, limit int64, handle Handler) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn.SetDeadline(time.Now().Add(requestTimeout))
	var request Request
	var answer response
	hungUp := make(chan struct{})
	if err := readMessage(conn, limit, &request); err != nil {
		answer.Error = err.Error()
		close(hungUp)
	} else {
		conn.SetDeadline(time.Time{})
		// A client that hangs up (Ctrl-C of an exec) ends its request.
		go func() {
			defer close(hungUp)
			io.Copy(io.Discard, conn)
			cancel()
		}()
		result, err := handle(ctx, request)
		if err == nil {
			answer.Result, err = json.Marshal(result)
		}
		if err != nil {
			answer = response{Error: err.Error(), Hint: api.Hint(err)}
		}
	}
	conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	json.NewEncoder(conn).Encode(answer)
	// The client ends with this process if this is the container's first one, so it gets the
	// time to use what may be the last answer.
	select {
	case <-hungUp:
	case <-time.After(hangUpTimeout):
	}
}

func readMessage(r io.Reader, limit int64, to any) error {
	line, err := bufio.NewReader(io.LimitReader(r, limit)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading a message of the control socket: %w", err)
	}
	if err := json.Unmarshal(line, to); err != nil {
		return fmt.Errorf("parsing a message of the control socket: %w", err)
	}
	return nil
}

// dialInterval is how often Call tries a socket that does not exist yet.
const dialInterval = 20 * time.Millisecond

// Call sends a request to the gateway at path and stores the answer in result. While the gateway
// starts, Call waits for the socket until ctx is done or r.Wait is over.
func Call(ctx context.Context, path string, r Request, result any) error {
	return CallAndUse(ctx, path, r, result, func() error { return nil })
}

// CallAndUse is Call for answers after which the gateway may end, and this process with it: it
// stores the answer and calls use before the gateway can see that the answer has arrived.
func CallAndUse(ctx context.Context, path string, r Request, result any, use func() error) error {
	conn, err := dial(ctx, path, r.Wait)
	if err != nil {
		return api.WithHint(fmt.Errorf("reaching the gateway: %w", err),
			"the gateway has not started or has ended: look at its log")
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return fmt.Errorf("asking the gateway: %w", err)
	}
	var answer response
	if err := readMessage(conn, maxMessage, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return api.WithHint(errors.New(answer.Error), answer.Hint)
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		return fmt.Errorf("parsing the gateway's answer: %w", err)
	}
	return use()
}

func dial(ctx context.Context, path string, wait time.Duration) (net.Conn, error) {
	deadline := time.Now().Add(wait)
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		starting := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
		if err == nil || !starting || !time.Now().Before(deadline) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(dialInterval):
		}
	}
}
