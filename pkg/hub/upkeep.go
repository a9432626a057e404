package hub

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/access"
	"github.com/meshkit/meshkit/pkg/hub/admin"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/observe"
)

// upkeepEvery is how often the hub looks at its own certificate and keyset.
const upkeepEvery = time.Minute

// renameEvery is how often a certificate is asked for because the one in use does not
// name the host at which the hub is reached: a leader of an older build, or a host that
// no certificate can name, gives another one like it.
const renameEvery = time.Hour

// upkeep renews the hub's certificate and extends the keyset before they expire.
func (h *Hub) upkeep(ctx context.Context) error {
	select {
	case <-h.views.Ready(): // the trust metadata is known, which certificates come with
	case <-ctx.Done():
		return nil
	}
	renewAt := h.opt.TLS.Renewal(time.Now())
	var renameAt time.Time
	for {
		if now := time.Now(); now.After(renewAt) || now.After(renameAt) && h.misnamed() {
			if err := h.renew(ctx); err != nil {
				h.log.Warn("hub certificate not renewed; trying again", "expires", h.opt.TLS.NotAfter(), "err", err)
			} else {
				renewAt, renameAt = h.opt.TLS.Renewal(now), now.Add(renameEvery)
			}
		}
		h.followBundle()
		// By whichever hub has the key. Where it is on none, the check of trust says so.
		if err := h.extend(ctx); err != nil && !errors.Is(err, fault.CodeKeyNotFound) {
			h.log.Warn("keyset not extended; trying again", "err", err)
		}
		pause := time.NewTimer(backoff.Jitter(upkeepEvery, 0.1))
		select {
		case <-pause.C:
		case <-h.renamed:
		case <-ctx.Done():
		}
		pause.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (h *Hub) extend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	return h.keys.Extend(h.asItself(ctx), h.replica, time.Now())
}

// asItself makes the hub the caller of what it asks the leader.
func (h *Hub) asItself(ctx context.Context) context.Context {
	return access.WithCaller(ctx, h.opt.Port.Addr(), h.opt.TLS.Chain())
}

// publish has the leader publish trust metadata for c, the caller of ctx.
func (h *Hub) publish(ctx context.Context, m *trustv1.Metadata, c keyring.Caller, reason string) error {
	info := &grpc.UnaryServerInfo{FullMethod: adminv1.TrustService_PublishTrust_FullMethodName}
	_, err := h.forward.Send(ctx, &adminv1.PublishTrustRequest{Metadata: m, Reason: reason, RequestId: c.RequestID, Fingerprint: c.Fingerprint}, info, func(ctx context.Context, req any) (any, error) {
		return admin.NewTrust(h.adminOptions()).PublishTrust(ctx, req.(*adminv1.PublishTrustRequest))
	})
	return err
}

// followBundle takes over the CA bundle that the keyset describes.
func (h *Hub) followBundle() {
	f := h.keys.Current()
	if f == nil || len(f.Anchors.CABundle()) == 0 || bytes.Equal(f.Anchors.CABundle(), h.opt.TLS.Bundle()) {
		return
	}
	if err := h.opt.TLS.SetBundle(f.Anchors.CABundle()); err != nil {
		h.log.Error("CA bundle of the keyset not usable", "keyset", f.Anchors.KeysetVersion(), "err", err)
		return
	}
	h.log.Info("CA bundle replaced", "keyset", f.Anchors.KeysetVersion())
}

// renewTime bounds one try to renew the hub's certificate or to extend the keyset.
const renewTime = 30 * time.Second

// renew has the leader issue and record a certificate for a new key, as nodes do,
// and puts it to use.
func (h *Hub) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	if _, leading := h.replica.Leading(); !leading && time.Now().After(h.opt.TLS.NotAfter()) {
		if err := h.bridge(ctx); err != nil {
			return err
		}
	}
	key, csr, err := h.request()
	if err != nil {
		return err
	}
	config, _, err := h.keys.Signer()
	if err != nil {
		return err
	}
	proof, err := config.Sign(ctx, join.RenewProof(h.opt.Authority.Pin(), h.opt.Name, csr))
	if err != nil {
		return err
	}
	info := &grpc.UnaryServerInfo{FullMethod: identityv1.IdentityService_Renew_FullMethodName}
	answer, err := h.forward.Send(h.asItself(ctx), &identityv1.RenewRequest{Csr: csr, ConfigProof: proof}, info, func(ctx context.Context, req any) (any, error) {
		return h.joinService().Renew(ctx, req.(*identityv1.RenewRequest))
	})
	if err != nil {
		return err
	}
	if err := h.opt.TLS.SetCertificate(mtls.Certificate(answer.(*identityv1.RenewResponse).GetCertificateChain(), key)); err != nil {
		return err
	}
	h.log.Info("hub certificate renewed", "serial", h.opt.TLS.Chain()[0].SerialNumber.Text(16), "expires", h.opt.TLS.NotAfter())
	if h.opt.SaveTLS != nil {
		return h.opt.SaveTLS()
	}
	return nil
}

// bridgeTTL is the life of a certificate that only leads to the next.
const bridgeTTL = 15 * time.Minute

// bridge puts a certificate of the hub's own issuing CA to use that is not in the
// log, for as long as it takes to get one that is: with one that has expired, as
// after some days of standstill, no other hub lets this one in.
func (h *Hub) bridge(ctx context.Context) error {
	key, csr, err := h.request()
	if err != nil {
		return err
	}
	leaf := h.opt.TLS.Chain()[0]
	cert, err := h.opt.Authority.Issue(ctx, ca.Request{CSR: csr, ID: h.opt.TLS.ID(), TTL: bridgeTTL, DNSNames: leaf.DNSNames, IPs: join.Addresses(leaf.IPAddresses)})
	if err != nil {
		return err
	}
	return h.opt.TLS.SetCertificate(mtls.Certificate(cert.Chain, key))
}

// request makes a key and the request for its certificate.
func (h *Hub) request() (key crypto.Signer, csr []byte, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	csr, err = ca.NewCSR(key, h.opt.TLS.ID())
	return key, csr, err
}

// webServer serves metrics to operators and hubs, and health to everyone.
func (h *Hub) webServer() *http.Server {
	guard := h.guard()
	authorize := func(r *http.Request) error {
		if r.TLS == nil {
			return fault.New(fault.CodeNoClientCert, "metrics need a client certificate of the domain")
		}
		id, ok := mtls.StateID(*r.TLS)
		if !ok {
			return fault.New(fault.CodeNoClientCert, "metrics need a client certificate of the domain")
		}
		if id.Kind == identity.Node {
			return fault.New(fault.CodeNotPermitted, "%s may not read metrics", id)
		}
		return guard.Stands(id, r.TLS.PeerCertificates)
	}
	s := observe.NewServer(observe.Handler(h.opt.Registry, h.health, authorize))
	s.TLSConfig = mtls.ServerConfig(h.opt.TLS, mtls.ServerOptions{OptionalClient: true})
	return s
}

// observe registers metrics and health checks.
func (h *Hub) observe(dist *distribution.Metrics) {
	gauge := func(name, help string, f func(*replica.Current) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			cur := h.replica.Current()
			if cur == nil {
				return 0
			}
			return f(cur)
		})
	}
	h.opt.Registry.MustRegister(
		collectors(dist.Collectors()), collectors(h.fleet.Collectors()), collectors(h.views.Collectors()),
		gauge("meshkit_log_seq", "Sequence number of the newest log entry that this hub follows.", func(c *replica.Current) float64 { return float64(c.State.Seq()) }),
		gauge("meshkit_config_seq", "Config sequence: the newest version.", func(c *replica.Current) float64 { return float64(c.State.ConfigSeq()) }),
		gauge("meshkit_resources", "Resources in the domain.", func(c *replica.Current) float64 { return float64(c.State.Len()) }),
		gauge("meshkit_nodes", "Nodes that have joined the domain.", func(c *replica.Current) float64 { return float64(c.State.NodeCount()) }),
		gauge("meshkit_log_entries_skipped", "Entries of kinds that this build does not know.", func(c *replica.Current) float64 { return float64(c.State.Skipped()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshkit_read_only", Help: "1 while the hub cannot write to its log (see /readyz)."}, func() float64 {
			if h.replica.Health() != nil {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshkit_log_went_back", Help: "1 while the store holds an older or another log than this hub has seen: it was restored from a snapshot, or edited."}, func() float64 {
			if h.replica.WentBack() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshkit_ring_split", Help: "1 while another hub leads the domain on a log that this hub's store does not have."}, func() float64 {
			if errors.Is(h.replica.Health(), fault.CodeRingSplit) {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshkit_log_position_failing", Help: "1 while this hub cannot save how far it has followed a shared log."}, func() float64 {
			if h.replica.PositionFailed() != nil {
				return 1
			}
			return 0
		}),
		// Not a check of /readyz: a hub that cannot save a snapshot serves and writes.
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshkit_log_snapshot_failing", Help: "1 while the newest snapshot of the log could not be saved: the log grows until one is."}, func() float64 {
			if h.replica.SnapshotFailed() != nil {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshkit_certificate_expiry_seconds", Help: "When the hub's own certificate expires, in seconds since 1970."}, func() float64 {
			return float64(h.opt.TLS.NotAfter().Unix())
		}),
	)
	if h.opt.Port.first(h.front) {
		h.opt.Registry.MustRegister(h.opt.Port.evicted) // of all domains on the port
	}
	h.health.Add("log", func(context.Context) error { return h.replica.Health() })
	h.health.Add("trust", func(context.Context) error {
		if h.replica.Current() == nil {
			return nil // the log's check says so
		}
		err := h.keys.Health(time.Now())
		if errors.Is(err, fault.CodeKeysetEnding) || errors.Is(err, fault.CodeRootEnding) {
			err = observe.Warn(err) // all hubs have it at once, and serve
		}
		return err
	})
	h.health.Add("views", func(context.Context) error { return h.views.Health() })
	h.health.Add("serving", func(context.Context) error {
		if !h.serving.Load() {
			return fault.New(fault.CodeHubDraining, "hub %s is starting or shutting down", h.opt.Name)
		}
		return nil
	})
	h.health.Add("certificate", func(context.Context) error {
		if time.Now().After(h.opt.TLS.NotAfter()) {
			return fault.New(fault.CodePeerExpired, "the hub's own certificate expired at %s", h.opt.TLS.NotAfter().Format(time.RFC3339))
		}
		return nil
	})
}
