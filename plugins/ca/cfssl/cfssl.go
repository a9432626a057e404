// Package cfssl is a ca.Driver that signs with CloudFlare's cfssl.
//
// cfssl trusts its caller and its profiles more than MeshKit does, so this
// driver leaves it no choice:
//
//   - every profile has a CSR whitelist that lets the public key through and
//     nothing else, and none sets copy_extensions, which would put the request's
//     own names and usages in place of ours;
//   - SignRequest.Hosts bypasses all whitelists and is parsed by guessing
//     (address, email, URI, else DNS name): each host is checked here to be read
//     as the kind that it is meant as;
//   - a profile name that cfssl does not know means its default profile: names
//     are looked up here first;
//   - without explicit times it backdates by five minutes and rounds: both times
//     are always given;
//   - it has no objection to a leaf without names, or that outlives the CA: the
//     template is checked here, and package ca checks the result once more;
//   - its certdb records DNS names only: none is used, because the hub records
//     each certificate in its log;
//   - its logger is one variable for the whole process: it is redirected once, to
//     the slog.Logger of the driver that was opened last.
//
// A Driver is safe for concurrent use.
package cfssl

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudflare/cfssl/config"
	cflog "github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
)

// Driver implements ca.Driver.
type Driver struct {
	issuer *x509.Certificate
	signer *local.Signer
}

var _ ca.Driver = (*Driver)(nil)

// New makes a driver that signs as issuer with its key, which may live anywhere.
// The error has fault.CodeIssuerInvalid.
func New(issuer *x509.Certificate, key crypto.Signer, logger *slog.Logger) (*Driver, error) {
	redirectLog(logger)
	if issuer == nil || !issuer.IsCA {
		return nil, fault.New(fault.CodeIssuerInvalid, "issuer is not a CA certificate")
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(issuer.PublicKey) {
		return nil, fault.New(fault.CodeIssuerInvalid, "key does not belong to CA certificate %q", issuer.Subject)
	}
	s, err := local.NewSigner(key, issuer, signer.DefaultSigAlgo(key), policy())
	if err != nil {
		return nil, fault.New(fault.CodeIssuerInvalid, "set up cfssl for CA %q: %w", issuer.Subject, err)
	}
	return &Driver{issuer: issuer, signer: s}, nil
}

// Issuer implements ca.Driver.
func (d *Driver) Issuer() *x509.Certificate { return d.issuer }

// Sign implements ca.Driver.
func (d *Driver) Sign(ctx context.Context, t ca.Template) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.CodeCanceled, "sign certificate: %w", context.Cause(ctx))
	}
	if err := d.check(t); err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "sign certificate %q: %w", t.CommonName, err)
	}
	hosts, err := hosts(t)
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "sign certificate %q: %w", t.CommonName, err)
	}
	text, err := d.signer.Sign(signer.SignRequest{
		Hosts:   hosts,
		Request: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: t.CSR})),
		Subject: &signer.Subject{CN: t.CommonName},
		Profile: string(t.Profile),
		// Not zero, checked above: zero would mean "as cfssl likes".
		NotBefore: t.NotBefore, NotAfter: t.NotAfter,
	})
	if err != nil {
		return nil, fault.New(fault.CodeIssueRefused, "sign certificate %q: %w", t.CommonName, err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fault.New(fault.CodeIssueRefused, "sign certificate %q: cfssl returned no PEM", t.CommonName)
	}
	return block.Bytes, nil
}

func (d *Driver) check(t ca.Template) error {
	if _, ok := profiles[t.Profile]; !ok {
		return fmt.Errorf("profile %q is not known", t.Profile)
	}
	if _, isCA := t.Profile.PathLen(); (t.URI == nil) != isCA {
		return fmt.Errorf("profile %q with URI %v: a leaf has exactly one, a CA none", t.Profile, t.URI)
	}
	if t.URI == nil && len(t.DNSNames)+len(t.IPs) > 0 {
		return fmt.Errorf("profile %q takes no names", t.Profile)
	}
	if t.NotBefore.IsZero() || t.NotAfter.IsZero() || !t.NotBefore.Before(t.NotAfter) {
		return fmt.Errorf("validity from %s to %s is empty or not given", t.NotBefore, t.NotAfter)
	}
	if t.NotBefore.Before(d.issuer.NotBefore) || t.NotAfter.After(d.issuer.NotAfter) {
		return fmt.Errorf("validity from %s to %s exceeds the CA's", t.NotBefore.Format(time.RFC3339), t.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// hosts lists names for cfssl, making sure that it will read each as what it is.
// The list is never nil: nil would mean the request's own names.
func hosts(t ca.Template) ([]string, error) {
	out := []string{}
	if t.URI != nil {
		text := t.URI.String()
		parsed, err := url.ParseRequestURI(text)
		if t.URI.Scheme != "spiffe" || err != nil || parsed.String() != text || isIP(text) || isMail(text) {
			return nil, fmt.Errorf("URI %q would be read as something else", text)
		}
		out = append(out, text)
	}
	for _, name := range t.DNSNames {
		if _, err := url.ParseRequestURI(name); name == "" || err == nil || isIP(name) || isMail(name) {
			return nil, fmt.Errorf("DNS name %q would be read as something else", name)
		}
		out = append(out, name)
	}
	for _, ip := range t.IPs {
		if text := ip.String(); ip != (netip.Addr{}) && ip.Zone() == "" && isIP(text) {
			out = append(out, text)
			continue
		}
		return nil, fmt.Errorf("address %q would be read as something else", ip)
	}
	return out, nil
}

func isIP(s string) bool { return net.ParseIP(s) != nil }

func isMail(s string) bool {
	_, err := mail.ParseAddress(s)
	return err == nil
}

var profiles = map[ca.Profile]*config.SigningProfile{
	ca.ProfileNode:     leaf("client auth", "server auth"),
	ca.ProfileHub:      leaf("client auth", "server auth"),
	ca.ProfileOperator: leaf("client auth"),
	ca.ProfileIntermediate: {
		Usage:        []string{"cert sign", "crl sign"},
		Expiry:       ca.IntermediateTTL,
		ExpiryString: ca.IntermediateTTL.String(),
		CAConstraint: config.CAConstraint{IsCA: true, MaxPathLen: 0, MaxPathLenZero: true},
		CSRWhitelist: keyOnly(),
	},
	ca.ProfileHubCA: {
		Usage:        []string{"cert sign", "crl sign"},
		Expiry:       ca.IntermediateTTL,
		ExpiryString: ca.IntermediateTTL.String(),
		CAConstraint: config.CAConstraint{IsCA: true, MaxPathLen: 1},
		CSRWhitelist: keyOnly(),
	},
}

func leaf(usages ...string) *config.SigningProfile {
	return &config.SigningProfile{
		Usage:        append([]string{"digital signature"}, usages...),
		Expiry:       ca.DefaultTTL,
		ExpiryString: ca.DefaultTTL.String(),
		CSRWhitelist: keyOnly(),
	}
}

// keyOnly lets a request determine the key. (SignatureAlgorithm is the CA's own,
// which cfssl routes through here.) A nil whitelist would let everything through.
func keyOnly() *config.CSRWhitelist {
	return &config.CSRWhitelist{PublicKey: true, PublicKeyAlgorithm: true, SignatureAlgorithm: true}
}

func policy() *config.Signing {
	named := make(map[string]*config.SigningProfile, len(profiles))
	for name, p := range profiles {
		named[string(name)] = p
	}
	// The default is never used; it is the least that cfssl accepts.
	return &config.Signing{Default: leaf("client auth"), Profiles: named}
}

var (
	redirect sync.Once
	target   atomic.Pointer[slog.Logger]
)

// redirectLog sends cfssl's messages to logger. cfssl keeps its writer in a
// plain variable, so it is set once and switches by an atomic pointer of ours.
func redirectLog(logger *slog.Logger) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	target.Store(logger)
	redirect.Do(func() { cflog.SetLogger(logWriter{}) })
}

// logWriter implements cfssl's log.SyslogWriter. The hub reports each
// certificate itself, so what cfssl tells for information is for debugging.
type logWriter struct{}

func (logWriter) Debug(m string)   { emit(slog.LevelDebug, m) }
func (logWriter) Info(m string)    { emit(slog.LevelDebug, m) }
func (logWriter) Warning(m string) { emit(slog.LevelWarn, m) }
func (logWriter) Err(m string)     { emit(slog.LevelError, m) }
func (logWriter) Crit(m string)    { emit(slog.LevelError, m) }
func (logWriter) Emerg(m string)   { emit(slog.LevelError, m) }

func emit(level slog.Level, m string) {
	target.Load().Log(context.Background(), level, "cfssl", "detail", m)
}
