package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// verifiedKept bounds the chains whose signatures are remembered.
const verifiedKept = 4096

// verified remembers chains that led to the roots, and the time in which all of
// their certificates are valid: signatures do not change, and checking them is most
// of the work of a handshake or a forwarded call. It belongs to one set of roots.
type verified struct {
	chains *lru.Cache[[32]byte, validity]
}

type validity struct{ from, to time.Time }

func newVerified() *verified {
	chains, err := lru.New[[32]byte, validity](verifiedKept)
	if err != nil {
		panic(err) // of a size below 1
	}
	return &verified{chains}
}

// holds tells whether a chain is known to be good at now.
func (v *verified) holds(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) bool {
	span, ok := v.chains.Get(chainID(certs, usage))
	return ok && !now.Before(span.from) && !now.After(span.to)
}

// add remembers what x509 found for a chain.
func (v *verified) add(certs []*x509.Certificate, usage x509.ExtKeyUsage, found []*x509.Certificate) {
	span := validity{found[0].NotBefore, found[0].NotAfter}
	for _, c := range found[1:] {
		if c.NotBefore.After(span.from) {
			span.from = c.NotBefore
		}
		if c.NotAfter.Before(span.to) {
			span.to = c.NotAfter
		}
	}
	v.chains.Add(chainID(certs, usage), span)
}

// chainID tells chains apart by all of their bytes.
func chainID(certs []*x509.Certificate, usage x509.ExtKeyUsage) (id [32]byte) {
	h := sha256.New()
	h.Write([]byte{byte(usage)})
	for _, c := range certs {
		sum := sha256.Sum256(c.Raw)
		h.Write(sum[:])
	}
	h.Sum(id[:0])
	return id
}
