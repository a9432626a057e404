package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/local"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/backoff"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
)

// hub answers applies and revocations in turn with the errors it is given.
type hub struct {
	adminv1.UnimplementedResourceServiceServer
	adminv1.UnimplementedFleetServiceServer
	adminv1.UnimplementedTrustServiceServer

	dies    func()     // ends the hub in a rotation
	mu      sync.Mutex // guards what follows
	answers []error
	ids     []string
}

// will sets what the next calls are answered.
func (h *hub) will(answers ...error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers = answers
}

func (h *hub) next(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids = append(h.ids, id)
	if len(h.answers) == 0 {
		return nil
	}
	err := h.answers[0]
	h.answers = h.answers[1:]
	return err
}

func (h *hub) Apply(_ context.Context, r *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	return &adminv1.ApplyResponse{Seq: 3}, h.next(r.GetRequestId())
}

func (h *hub) GetDomain(context.Context, *adminv1.GetDomainRequest) (*adminv1.GetDomainResponse, error) {
	return &adminv1.GetDomainResponse{}, h.next("")
}

func (h *hub) Watch(_ *adminv1.WatchRequest, s adminv1.ResourceService_WatchServer) error {
	if err := h.next(""); err != nil {
		return err
	}
	return s.Send(&adminv1.WatchResponse{})
}

func (h *hub) RevokeToken(_ context.Context, r *adminv1.RevokeTokenRequest) (*adminv1.RevokeTokenResponse, error) {
	return &adminv1.RevokeTokenResponse{}, h.next(r.GetId())
}

func (h *hub) RotateHubKey(ctx context.Context, r *adminv1.RotateHubKeyRequest) (*adminv1.RotateHubKeyResponse, error) {
	err := h.next(r.GetRequestId())
	if h.dies != nil {
		go h.dies() // takes the connection before there is an answer
		<-ctx.Done()
	}
	return &adminv1.RotateHubKeyResponse{}, err
}

func serve(t *testing.T, h *hub, l net.Listener, creds credentials.TransportCredentials) *grpc.Server {
	t.Helper()
	s := grpc.NewServer(append(wire.ServerOptions(wire.ServerConfig{}), grpc.Creds(creds))...)
	adminv1.RegisterResourceServiceServer(s, h)
	adminv1.RegisterFleetServiceServer(s, h)
	adminv1.RegisterTrustServiceServer(s, h)
	go s.Serve(l) // ends with Stop
	t.Cleanup(s.Stop)
	return s
}

func overSocket(t *testing.T, h *hub) (*Client, *grpc.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hub") // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := serve(t, h, l, local.NewCredentials())
	options := append(wire.DialOptions(wire.DialConfig{}), grpc.WithTransportCredentials(local.NewCredentials()), grpc.WithStatsHandler(StatsHandler()))
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := New("hub", conn)
	c.policy = backoff.Policy{Base: time.Millisecond, Cap: 2 * time.Millisecond}
	return c, server
}

var busy = fault.New(fault.CodeNotLeader, "not the leader")

func TestWritesWithARequestIDAreRetriedWithTheSameID(t *testing.T) {
	h := &hub{answers: []error{busy, busy, nil}}
	c, _ := overSocket(t, h)
	resp, err := c.Apply(t.Context(), &adminv1.ApplyRequest{RequestId: "one"})
	if err != nil || resp.GetSeq() != 3 {
		t.Fatalf("%v, %v", resp, err)
	}
	if len(h.ids) != 3 || h.ids[0] != "one" || h.ids[1] != "one" || h.ids[2] != "one" {
		t.Errorf("ids %q", h.ids)
	}
}

func TestWritesWithoutARequestIDAreSentOnce(t *testing.T) {
	h := &hub{answers: []error{busy}}
	c, _ := overSocket(t, h)
	if _, err := c.RevokeToken(t.Context(), "tok"); !errors.Is(err, fault.CodeNotLeader) {
		t.Errorf("error %v", err)
	}
	if len(h.ids) != 1 {
		t.Errorf("sent %d times", len(h.ids))
	}
}

func TestRefusalsAreNotRetried(t *testing.T) {
	h := &hub{answers: []error{fault.New(fault.CodeBaseMoved, "moved")}}
	c, _ := overSocket(t, h)
	if _, err := c.Apply(t.Context(), &adminv1.ApplyRequest{RequestId: "one"}); !errors.Is(err, fault.CodeBaseMoved) || len(h.ids) != 1 {
		t.Errorf("%v after %d tries", err, len(h.ids))
	}
}

func TestRetriesEndAndTheHubsReasonStands(t *testing.T) {
	h := &hub{answers: []error{busy, busy, busy, busy, nil}}
	c, _ := overSocket(t, h)
	if _, err := c.Domain(t.Context()); !errors.Is(err, fault.CodeNotLeader) || len(h.ids) != attempts {
		t.Errorf("%v after %d tries", err, len(h.ids))
	}
}

func TestAReadThatTookLongIsNotTriedAgain(t *testing.T) {
	h := &hub{answers: []error{busy, busy, busy, busy, busy, nil}}
	c, _ := overSocket(t, h)
	c.patience = time.Nanosecond
	if _, err := c.Domain(t.Context()); !errors.Is(err, fault.CodeNotLeader) || len(h.ids) != 1 {
		t.Errorf("%v after %d tries", err, len(h.ids))
	}
	if _, err := c.Apply(t.Context(), &adminv1.ApplyRequest{RequestId: "one"}); !errors.Is(err, fault.CodeNotLeader) || len(h.ids) != 1+attempts {
		t.Errorf("a write: %v after %d tries", err, len(h.ids)-1)
	}
}

func TestHubThatIsNotThereIsUnreachableNotUnknown(t *testing.T) {
	c, server := overSocket(t, &hub{})
	server.Stop()
	if _, err := c.Apply(t.Context(), &adminv1.ApplyRequest{RequestId: "one"}); !errors.Is(err, fault.CodeUnreachable) {
		t.Errorf("%v (%s)", err, fault.CodeOf(err))
	}
}

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// files writes certificate, key and CA bundle of an identity.
func (a *authority) files(id string) mtls.Files {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	uri, err := url.Parse(id)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	f := mtls.Files{Cert: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "c.key"), CA: filepath.Join(dir, "ca.pem")}
	for path, data := range map[string][]byte{f.Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), f.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), f.CA: a.pem} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return f
}

func TestOnlyAHubOfTheOwnDomainIsTrusted(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	operator := own.files("spiffe://demo/operator/ann")
	tests := map[string]struct {
		hub  mtls.Files
		want fault.Code
	}{
		"own hub":            {own.files("spiffe://demo/hub/hub1"), ""},
		"another CA":         {other.files("spiffe://demo/hub/hub1"), fault.CodeHandshake},
		"a node, not a hub":  {own.files("spiffe://demo/node/eu-1"), fault.CodeHandshake},
		"another trust zone": {own.files("spiffe://prod/hub/hub1"), fault.CodeHandshake},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cert, err := tls.LoadX509KeyPair(tt.hub.Cert, tt.hub.Key)
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			serve(t, &hub{}, l, credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}))
			c, err := Dial(Config{Hub: l.Addr().String(), CAFile: operator.CA, CertFile: operator.Cert, KeyFile: operator.Key})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.policy = backoff.Policy{Base: time.Millisecond, Cap: time.Millisecond}
			_, err = c.Domain(t.Context())
			if fault.CodeOf(err) != tt.want {
				t.Errorf("[%s] %v, want %q", fault.CodeOf(err), err, tt.want)
			}
			if name == "another trust zone" && !strings.HasSuffix(err.Error(), `of domain "demo"`) {
				t.Errorf("%v: the reason is not told to its end", err)
			}
		})
	}
}

func TestBadConfigurationIsToldBeforeDialing(t *testing.T) {
	if _, err := Dial(Config{Hub: "no-port"}); !errors.Is(err, fault.CodeConfig) {
		t.Errorf("%v", err)
	}
	if _, err := Dial(Config{Hub: "h:1", CAFile: "/nowhere", CertFile: "/nowhere", KeyFile: "/nowhere"}); !errors.Is(err, fault.CodeCredentials) {
		t.Errorf("%v", err)
	}
}
