package remote

import (
	"context"
	"errors"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// Sign turns a gateway's request, a PKCS #10 request in PEM form, into the
// certificate for it. Only the public key of the request counts.
type Sign func(csr []byte) (*api.IssuedCertificate, error)

// Renew gives the gateway in a container a new key and certificate, and returns
// its status then. The key is made in the gateway and stays there. Connections
// that are open go on; after an error the gateway keeps what it had.
func (c *Client) Renew(ctx context.Context, namespace, pod, container string, sign Sign) (*api.Status, error) {
	return nil, errors.New("not built yet")
}

// Trust replaces the roots that the gateway in a container trusts by bundle, in
// PEM form, and returns its status then.
func (c *Client) Trust(ctx context.Context, namespace, pod, container string, bundle []byte) (*api.Status, error) {
	return nil, errors.New("not built yet")
}

// ResetExisting resets the plaintext connections into captured ranges that the
// gateway in a container does not carry, and returns its status then.
func (c *Client) ResetExisting(ctx context.Context, namespace, pod, container string) (*api.Status, error) {
	return nil, errors.New("not built yet")
}

// Disable ends the gateway in a container: it stops the capture, lets connections
// drain for at most drain, and goes. After an error the gateway may be on its way;
// Disable can be tried again.
func (c *Client) Disable(ctx context.Context, namespace, pod, container string, drain time.Duration) (*api.DisableReport, error) {
	return nil, errors.New("not built yet")
}
