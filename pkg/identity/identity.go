// Package identity names who takes part in a domain: nodes, hubs and operators,
// each by a SPIFFE ID spiffe://<domain>/<kind>/<name>.
//
// Parse reads an ID from outside, New makes one from parts, and FromCertificate
// takes the one that a certificate proves. All three apply the same rules, so
// an ID that exists is valid; the zero ID is no one. The package is pure: no
// I/O, no clock, and its values are immutable and safe to share.
package identity

import (
	"crypto/x509"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/meshkit/meshkit/pkg/fault"
)

// Kind is the role of an identity in its domain.
type Kind string

// The kinds of identity.
const (
	Node     Kind = "node"
	Hub      Kind = "hub"
	Operator Kind = "operator"
)

// Valid tells whether k is one of the kinds above.
func (k Kind) Valid() bool { return k == Node || k == Hub || k == Operator }

const (
	// maxDomain is the longest domain, in bytes: a DNS name's limit.
	maxDomain = 253
	// maxName is the longest name, in bytes: a DNS label's limit, which also
	// fits the common name of a certificate.
	maxName = 63
)

// ID is one identity. It is comparable; the zero value is no one.
type ID struct {
	Domain string
	Kind   Kind
	Name   string
}

// New makes an ID of its parts. The error has fault.CodeIdentityInvalid.
func New(domain string, kind Kind, name string) (ID, error) {
	if err := ValidDomain(domain); err != nil {
		return ID{}, err
	}
	if !kind.Valid() {
		return ID{}, fault.New(fault.CodeIdentityInvalid, "identity kind %q is none of node, hub, operator", kind)
	}
	if err := ValidName(name); err != nil {
		return ID{}, err
	}
	return ID{Domain: domain, Kind: kind, Name: name}, nil
}

// Parse reads spiffe://<domain>/<kind>/<name>. The error has
// fault.CodeIdentityInvalid.
func Parse(uri string) (ID, error) {
	if len(uri) > 2048 {
		return ID{}, fault.New(fault.CodeIdentityInvalid, "SPIFFE ID of %d bytes is longer than 2048", len(uri))
	}
	sid, err := spiffeid.FromString(uri)
	if err != nil {
		return ID{}, fault.New(fault.CodeIdentityInvalid, "parse SPIFFE ID %q: %w", uri, err)
	}
	return fromSPIFFE(sid)
}

func fromSPIFFE(sid spiffeid.ID) (ID, error) {
	segments := strings.Split(strings.TrimPrefix(sid.Path(), "/"), "/")
	if len(segments) != 2 {
		return ID{}, fault.New(fault.CodeIdentityInvalid, "SPIFFE ID %q does not have the form spiffe://<domain>/<kind>/<name>", sid.String())
	}
	return New(sid.TrustDomain().Name(), Kind(segments[0]), segments[1])
}

// FromCertificate takes the identity from a certificate's only URI name. It
// checks names alone: whether to believe the certificate is the caller's
// matter. The error has fault.CodeCertificateInvalid.
func FromCertificate(cert *x509.Certificate) (ID, error) {
	if cert == nil {
		return ID{}, fault.New(fault.CodeCertificateInvalid, "no certificate")
	}
	sid, err := x509svid.IDFromCert(cert)
	if err != nil {
		return ID{}, fault.New(fault.CodeCertificateInvalid, "take identity from certificate %x: %w", cert.SerialNumber, err)
	}
	id, err := fromSPIFFE(sid)
	if err != nil {
		return ID{}, fault.New(fault.CodeCertificateInvalid, "take identity from certificate %x: %w", cert.SerialNumber, err)
	}
	return id, nil
}

// String gives the SPIFFE ID, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.Domain + "/" + string(id.Kind) + "/" + id.Name
}

// IsZero tells whether id is no one.
func (id ID) IsZero() bool { return id == ID{} }

// ValidDomain checks a domain: at most 253 bytes of lower-case letters, digits,
// '-' and '.', with a letter or digit at both ends of each label. The error has
// fault.CodeIdentityInvalid.
func ValidDomain(domain string) error { return valid("domain", domain, maxDomain) }

// ValidName checks the name of a node, hub or operator: as ValidDomain, at most
// 63 bytes.
func ValidName(name string) error { return valid("name", name, maxName) }

func valid(what, s string, limit int) error {
	if s == "" {
		return fault.New(fault.CodeIdentityInvalid, "%s is empty", what)
	}
	if len(s) > limit {
		return fault.New(fault.CodeIdentityInvalid, "%s of %d bytes is longer than %d", what, len(s), limit)
	}
	for label := range strings.SplitSeq(s, ".") {
		if !validLabel(label) {
			return fault.New(fault.CodeIdentityInvalid, "%s %q: each part between dots must be lower-case letters, digits and '-', with a letter or digit at both ends", what, s)
		}
	}
	return nil
}

func validLabel(label string) bool {
	if label == "" || len(label) > maxName {
		return false
	}
	for i := range len(label) {
		c := label[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(label)-1:
		default:
			return false
		}
	}
	return true
}
