package client

import (
	"context"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
)

// Renew gives a chain (DER, leaf first) for the key of a certificate request, in
// the caller's own name. It is asked again when the answer is lost: a certificate
// that nobody received is of no use to anybody, and only an entry in the log.
func (c *Client) Renew(ctx context.Context, csr []byte) ([][]byte, error) {
	r, err := call(ctx, c, read, c.identity.Renew, &identityv1.RenewRequest{Csr: csr})
	return r.GetCertificateChain(), err
}
