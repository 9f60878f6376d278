package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// requestLimit bounds a gateway's certificate request, in bytes. A real one has
// about a thousand.
const requestLimit = 16 << 10

// Renew gives the gateway a new key and a certificate of issuer, valid for ttl
// (the issuer's choice if zero), and returns its status then. The key is made in the
// gateway and stays there. The certificate is for the pod as it is when it is signed.
// Connections that are open go on; after an error of the gateway it keeps what it had.
// If ctx ends, Renew does not wait for issuer, and the gateway may have either.
func (g *Conn) Renew(ctx context.Context, issuer ca.Issuer, ttl time.Duration) (*api.Status, error) {
	return g.Certify(ctx, issuer, ttl, nil)
}

// Certify is Renew for a gateway that may be a sidecar without a certificate: that gets first as well.
func (g *Conn) Certify(ctx context.Context, issuer ca.Issuer, ttl time.Duration, first *api.FirstSettings) (*api.Status, error) {
	// The call may end before the signing does, and an attempt that failed may
	// have signed.
	var (
		mu     sync.Mutex
		serial string
		status *api.Status
	)
	err := g.retry(ctx, func() (err error) {
		status, err = g.renew(ctx, func(csr []byte) (*api.IssuedCertificate, error) {
			leaf, err := g.sign(ctx, issuer, csr, ttl)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			serial = leaf.Serial
			return &api.IssuedCertificate{Certificate: string(leaf.CertPEM), Bundle: string(issuer.Bundle()),
				Revoked: issuer.Revocations().Encode(), First: first}, nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	roots := slices.Sorted(slices.Values(issuer.Roots()))
	switch {
	case status.Cert.Serial != serial:
		return nil, fmt.Errorf("the gateway says that its certificate is %.40q, not the one that was made (%.40q)", status.Cert.Serial, serial)
	case !slices.Contains(roots, status.Cert.Issuer):
		return nil, fmt.Errorf("the gateway says that its certificate leads to %.16q, which is none of the roots that it was given", status.Cert.Issuer)
	case !slices.Equal(slices.Sorted(slices.Values(status.Cert.Authorities)), roots):
		return nil, errors.New("the gateway says that it trusts other authorities than it was given")
	}
	return status, nil
}

// sign makes the certificate that a gateway's request asks for. What answers is found
// by the pod's name: only that very pod gets one, for the addresses that it has now, which
// must be those that its gateway was made for.
func (g *Conn) sign(ctx context.Context, issuer ca.Issuer, csr []byte, ttl time.Duration) (*ca.Leaf, error) {
	pod, err := g.reread(ctx)
	if err != nil {
		return nil, err
	}
	ips := installed.PodIPs(pod)
	switch {
	case installed.Static(pod):
		return nil, installed.ErrStatic
	case len(ips) == 0:
		return nil, errors.New("the pod has no address")
	}
	if err := g.client.CheckAddresses(ctx, pod, g.container); err != nil {
		return nil, err
	}
	return issuer.Certify(ctx, csr, ca.LeafRequest{
		Identity: installed.Identity(pod, issuer.TrustDomain()), IPs: ips, TTL: ttl, Pod: installed.RefOf(pod)})
}

// renew has the gateway make a key, and answers its request with what sign returns.
func (g *Conn) renew(ctx context.Context, sign func(csr []byte) (*api.IssuedCertificate, error)) (*api.Status, error) {
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
				cancel(&signError{fmt.Errorf("issuing a certificate for the gateway of pod %s/%s: %w", g.pod.Namespace, g.pod.Name, err)})
				return
			}
			// It fails only if the command has ended, which says why.
			_, _ = answers.Write(answer)
		}
	}()
	text, err := g.read(ctx, stdin, func(rest io.Writer) io.Writer {
		return &firstLine{limit: requestLimit, take: func(line []byte) { requests <- line }, rest: rest,
			full: func() { cancel(errTooLong) }}
	}, "renew")
	if failed, ok := errors.AsType[*signError](err); ok {
		return nil, failed
	}
	status, err := parsed(g, text, err, g.checkStatus)
	if err != nil {
		return nil, ownWords(err)
	}
	return status, nil
}

// NotIssued reports whether err says that there is no certificate for a gateway, for a reason that is
// not the gateway's.
func NotIssued(err error) bool { return errors.As(err, new(*signError)) }

// signError says that it was not the gateway that failed.
type signError struct{ error }

func (e *signError) Unwrap() error { return e.error }

// answerRequest turns a gateway's line with a request into the line that answers it.
func answerRequest(line []byte, sign func(csr []byte) (*api.IssuedCertificate, error)) ([]byte, error) {
	var request api.CertificateRequest
	if err := json.Unmarshal(line, &request); err != nil {
		return nil, fmt.Errorf("reading its request: %w", &lineError{err})
	}
	if request.CSR == "" {
		return nil, errors.New("what it says is not a certificate request")
	}
	issued, err := sign([]byte(request.CSR))
	if err != nil {
		return nil, err
	}
	return jsonLine(issued)
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

// Trust replaces the roots that the gateway trusts by bundle, in PEM form, tells it what is revoked, and
// returns its status then. Connections that are open go on, except to whom is revoked. The gateway refuses a bundle that
// its own certificate does not lead to.
func (g *Conn) Trust(ctx context.Context, bundle []byte, revoked *ca.Revocations) (*api.Status, error) {
	line, err := jsonLine(api.TrustBundle{Bundle: string(bundle), Revoked: revoked.Encode()})
	if err != nil {
		return nil, fmt.Errorf("sending a trust bundle: %w", err)
	}
	return g.tell(ctx, line, "trust")
}

// ResetExisting resets the plaintext connections into captured ranges that the
// gateway does not carry, and returns its status then.
func (g *Conn) ResetExisting(ctx context.Context) (*api.Status, error) {
	return g.tell(ctx, nil, "reset")
}

// Disable ends the gateway: it stops the capture, lets connections drain for at most
// drain, and goes. A gateway that is draining already is joined. After an error it may
// be on its way, and Disable can be tried again.
func (g *Conn) Disable(ctx context.Context, drain time.Duration) (*api.DisableReport, error) {
	var report *disableReport
	err := g.retry(ctx, func() error {
		// A gateway that does not say whom it serves may still be able to end.
		if _, err := g.readStatus(ctx, 0); err != nil {
			if text, err := g.read(ctx, nil, nil, "status"); err == nil {
				if _, err := parse(text, g.checkStatus); errors.Is(err, ErrOtherPod) {
					return err
				}
			}
		}
		text, err := g.read(ctx, nil, nil, "disable", "--drain-timeout="+drain.String())
		// The command may be killed with the rest of the container right behind its last
		// word, which says that the end has been reached.
		if report, err = parsed(g, text, err, (*disableReport).check); report != nil {
			return nil
		}
		return ownWords(err)
	})
	if err != nil {
		return nil, err
	}
	return &api.DisableReport{Drained: *report.Drained, Aborted: *report.Aborted, Left: report.Left}, nil
}

// disableReport is an api.DisableReport whose numbers may be missing.
type disableReport struct {
	Drained, Aborted *uint64
	Left             []string
}

func (r *disableReport) check() error {
	if r.Drained == nil || r.Aborted == nil {
		return errors.New("its answer is not a report of its end")
	}
	return nil
}
