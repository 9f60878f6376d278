package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Sign turns a gateway's request, a PKCS #10 request in PEM form, into the
// certificate for it. Only the public key of the request counts.
type Sign func(csr []byte) (*api.IssuedCertificate, error)

// requestLimit bounds a gateway's certificate request, in bytes. A real one has
// about a thousand.
const requestLimit = 16 << 10

// Renew gives the gateway in a container a new key and certificate, and returns
// its status then. The key is made in the gateway and stays there. Connections
// that are open go on; after an error of the gateway it keeps what it had. If ctx
// ends, Renew does not wait for sign, and the gateway may have either.
//
// Errors are those of SetMode, and that of sign.
func (c *Client) Renew(ctx context.Context, namespace, pod, container string, sign Sign) (*api.Status, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdin, answers := io.Pipe()
	// The streams' library reads from it until it is closed.
	defer stdin.Close()
	requests := make(chan []byte, 1)
	go func() {
		select {
		case <-ctx.Done():
		case request := <-requests:
			answer, err := answerRequest(request, sign)
			if err != nil {
				cancel(&signError{fmt.Errorf("issuing a certificate for the gateway of pod %s/%s: %w", namespace, pod, err)})
				return
			}
			// It fails only if the command has ended, which says why.
			_, _ = answers.Write(answer)
		}
	}()
	text, err := c.read(ctx, namespace, pod, container, stdin, func(rest io.Writer) io.Writer {
		return &firstLine{limit: requestLimit, take: func(line []byte) { requests <- line }, rest: rest,
			full: func() { cancel(errTooLong) }}
	}, control("renew"))
	var failed *signError
	if errors.As(err, &failed) {
		return nil, failed.error
	}
	status, err := parsed(text, err, namespace, pod, parseStatus)
	if err != nil {
		return nil, ownWords(err)
	}
	return status, nil
}

// signError says that it was not the gateway that failed.
type signError struct{ error }

// answerRequest turns a gateway's line with a request into the line that answers it.
func answerRequest(line []byte, sign Sign) ([]byte, error) {
	request, err := parseRequest(line)
	if err != nil {
		return nil, err
	}
	issued, err := sign([]byte(request.CSR))
	if err != nil {
		return nil, err
	}
	return jsonLine(issued)
}

func parseRequest(line []byte) (*api.CertificateRequest, error) {
	var request api.CertificateRequest
	if err := json.Unmarshal(line, &request); err != nil {
		return nil, fmt.Errorf("reading its request: %w", &lineError{err})
	}
	if request.CSR == "" {
		return nil, errors.New("what it says is not a certificate request")
	}
	return &request, nil
}

// jsonLine is what a command of the gateway reads. None waits for the end of its
// input: the older protocol of WebSockets has no word for that.
func jsonLine(message any) ([]byte, error) {
	text, err := json.Marshal(message)
	return append(text, '\n'), err
}

// firstLine takes the first line apart from the rest of what is written to it.
type firstLine struct {
	limit int
	line  []byte
	taken bool
	take  func([]byte)
	rest  io.Writer
	// full is called when the line is longer than limit; it is not taken then.
	full func()
}

// Write never fails, see head.
func (f *firstLine) Write(p []byte) (int, error) {
	if f.taken {
		return f.rest.Write(p)
	}
	line, rest, complete := bytes.Cut(p, []byte("\n"))
	switch {
	case len(f.line)+len(line) > f.limit:
		f.taken, f.rest = true, io.Discard
		f.full()
	case complete:
		f.taken = true
		f.take(append(f.line, line...))
		if _, err := f.rest.Write(rest); err != nil {
			return 0, err
		}
	default:
		f.line = append(f.line, line...)
	}
	return len(p), nil
}

// Trust replaces the roots that the gateway in a container trusts by bundle, in
// PEM form, and returns its status then. Connections that are open go on. Errors
// are those of SetMode; the gateway refuses a bundle that its own certificate does
// not lead to.
func (c *Client) Trust(ctx context.Context, namespace, pod, container string, bundle []byte) (*api.Status, error) {
	line, err := jsonLine(api.TrustBundle{Bundle: string(bundle)})
	if err != nil {
		return nil, fmt.Errorf("sending a trust bundle: %w", err)
	}
	return c.tell(ctx, namespace, pod, container, bytes.NewReader(line), "trust")
}

// ResetExisting resets the plaintext connections into captured ranges that the
// gateway in a container does not carry, and returns its status then. Errors are
// those of SetMode.
func (c *Client) ResetExisting(ctx context.Context, namespace, pod, container string) (*api.Status, error) {
	return c.tell(ctx, namespace, pod, container, nil, "reset")
}

// Disable ends the gateway in a container: it stops the capture, lets connections
// drain for at most drain, and goes. After an error the gateway may be on its way;
// Disable can be tried again. Errors are those of SetMode. Clean the words of the
// report before they reach a terminal.
func (c *Client) Disable(ctx context.Context, namespace, pod, container string, drain time.Duration) (*api.DisableReport, error) {
	text, err := c.read(ctx, namespace, pod, container, nil, nil, control("disable", "--drain-timeout="+drain.String()))
	// The command may be killed with the rest of the container right behind its last
	// word, which says that the end has been reached.
	if report, parseErr := parseReport(text); parseErr == nil {
		return report, nil
	}
	report, err := parsed(text, err, namespace, pod, parseReport)
	if err != nil {
		return nil, ownWords(err)
	}
	return report, nil
}

func parseReport(text []byte) (*api.DisableReport, error) {
	var report struct {
		Drained, Aborted *uint64
		Left             []string
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", &lineError{err})
	}
	if report.Drained == nil || report.Aborted == nil {
		return nil, errors.New("its answer is not a report of its end")
	}
	return &api.DisableReport{Drained: *report.Drained, Aborted: *report.Aborted, Left: report.Left}, nil
}
