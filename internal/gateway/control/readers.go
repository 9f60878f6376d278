package control

import (
	"context"
	"errors"
	"net"
	"time"
)

const (
	// maxReaders is how many connections ServeReaders serves at a time.
	maxReaders = 8
	// maxQuestion bounds a request of a reader, in bytes.
	maxQuestion = 4 << 10
	// maxReaderWait bounds Request.Wait of a reader.
	maxReaderWait = 10 * time.Minute
)

// errReadOnly answers a reader that asks for something else than the status.
var errReadOnly = errors.New("only the status can be read here, within ten minutes")

// ServeReaders is Serve for clients that read the status, and can do nothing else. It speaks with
// what secure makes of a connection within requestTimeout; an error closes the connection. Connections
// beyond maxReaders are closed at once.
func ServeReaders(ctx context.Context, ln net.Listener, secure func(context.Context, net.Conn) (net.Conn, error), handle Handler) error {
	places := make(chan struct{}, maxReaders)
	return accept(ctx, ln, func(conn net.Conn) {
		defer conn.Close()
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			return
		}
		securing, cancel := context.WithTimeout(ctx, requestTimeout)
		secured, err := secure(securing, conn)
		cancel()
		if err != nil {
			return
		}
		serveOne(ctx, secured, maxQuestion, func(ctx context.Context, r Request) (any, error) {
			if r.Op != OpStatus || r.Wait > maxReaderWait {
				return nil, errReadOnly
			}
			return handle(ctx, Request{Op: OpStatus, Wait: r.Wait})
		})
	})
}
