package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"time"

	"google.golang.org/grpc"

	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// Waits between attempts to renew. The certificate has half of its life left when
// the first is made.
var renewBackoff = backoff.Policy{Base: 5 * time.Second, Cap: 5 * time.Minute}

// renewTimeout bounds one attempt with one hub.
const renewTimeout = 20 * time.Second

// NewJoinRequest makes a key and a certificate request that names no one: the hub
// puts in the name that the token permits. The key is ECDSA P-256 and never leaves
// the node.
func NewJoinRequest() (*ecdsa.PrivateKey, []byte, error) {
	return newRequest(&x509.CertificateRequest{})
}

// newRequest makes a key and a certificate request.
func newRequest(template *x509.CertificateRequest) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fault.New(fault.CodeInternal, "make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, nil, fault.New(fault.CodeInternal, "make certificate request: %w", err)
	}
	return key, csr, nil
}

// renew replaces the certificate at half of its life, give or take, and goes on
// trying until a hub does it.
func (a *Agent) renew(ctx context.Context) error {
	renewing(ctx, a.source.Renewal, func() bool {
		pause := backoff.New(renewBackoff)
		for {
			err := a.renewOnce(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return false
			}
			a.metrics.renewals.WithLabelValues("failed").Inc()
			a.log.Warn("certificate not renewed", "until", a.source.NotAfter(), "err", err)
			if pause.Wait(ctx) != nil {
				return false
			}
		}
		a.metrics.renewals.WithLabelValues("done").Inc()
		a.log.Info("certificate renewed", "until", a.source.NotAfter())
		a.reportAgain()
		return true
	})
	return nil
}

// renewing calls renew whenever the certificate is due, until renew says no or ctx
// ends. A new certificate that is due at once means that a clock is wrong: then there
// is a pause, growing, since each renewal is an entry in the domain's log.
func renewing(ctx context.Context, due func(now time.Time) time.Time, renew func() bool) {
	pause := backoff.New(renewBackoff)
	for again := false; ; again = true {
		now := time.Now()
		wait := due(now).Sub(now)
		switch {
		case wait > renewBackoff.Cap:
			pause.Reset()
		case again:
			wait = max(wait, pause.Next())
		}
		if backoff.Sleep(ctx, max(wait, 0)) != nil || !renew() {
			return
		}
	}
}

// renewOnce asks each hub in turn.
func (a *Agent) renewOnce(ctx context.Context) error {
	uri, err := url.Parse(a.source.ID().String())
	if err != nil {
		return fault.New(fault.CodeInternal, "name of this node: %w", err)
	}
	key, csr, err := newRequest(&x509.CertificateRequest{URIs: []*url.URL{uri}})
	if err != nil {
		return err
	}
	last := fault.New(fault.CodeRenewal, "no hub is configured")
	for _, hub := range a.cfg.Hubs {
		chain, err := a.askRenewal(ctx, hub, csr)
		if err != nil {
			last = fault.New(fault.CodeRenewal, "hub %s: %w", hub, err)
			continue
		}
		if err := a.source.SetCertificate(tls.Certificate{Certificate: chain, PrivateKey: key}); err != nil {
			last = fault.New(fault.CodeRenewal, "certificate from hub %s: %w", hub, err)
			continue
		}
		if err := a.saveIdentity(); err != nil {
			// It is in use all the same; the next renewal writes again.
			a.log.Error("renewed certificate not saved", "err", err)
		}
		return nil
	}
	return last
}

func (a *Agent) askRenewal(ctx context.Context, hub string, csr []byte) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	conn, err := grpc.NewClient(target(hub), append(wire.DialOptions(wire.DialConfig{}), a.dialOptions()...)...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := identityv1.NewIdentityServiceClient(conn).Renew(ctx, &identityv1.RenewRequest{Csr: csr})
	if err != nil {
		return nil, err
	}
	return resp.GetCertificateChain(), nil
}

// target is a hub's address for gRPC: passed to the dialer as it is, since a hub's
// address must resolve without any service of the mesh.
func target(hub string) string { return "passthrough:///" + hub }
