package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	controlv1 "github.com/meshkit/meshkit/pkg/api/meshkit/control/v1"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/wire"
	"github.com/meshkit/meshkit/test/harness"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frame is an HTTP/2 frame; length is what it says of itself.
func frame(length int, kind, flags byte, stream uint32, payload string) string {
	return string([]byte{byte(length >> 16), byte(length >> 8), byte(length), kind, flags, byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
}

// garbage is what is thrown at ports: each must end the connection that it came
// on, and nothing else.
func garbage() map[string]string {
	settings := frame(0, 4, 0, 0, "")
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(i*i>>3) ^ byte(i)
	}
	return map[string]string{
		"noise":                     string(noise),
		"HTTP/1.1":                  "GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
		"preface alone":             preface,
		"half a preface":            preface[:10],
		"frame of 16 MiB":           preface + settings + frame(1<<24-1, 0, 0, 1, strings.Repeat("x", 1<<17)),
		"headers that are no HPACK": preface + settings + frame(64, 1, 4, 1, strings.Repeat("\xff", 64)),
		"data without a stream":     preface + settings + frame(4, 0, 0, 7, "oops"),
		"settings of odd length":    preface + frame(5, 4, 0, 0, "\x00\x01\x00\x00\x00"),
		"window of nothing":         preface + settings + frame(4, 8, 0, 0, "\x00\x00\x00\x00"),
		"unknown frames":            preface + settings + strings.Repeat(frame(9, 0xee, 0xff, 9, "123456789"), 1000),
		"pings":                     preface + settings + strings.Repeat(frame(8, 6, 0, 0, "12345678"), 20_000),
		"resets":                    preface + settings + strings.Repeat(frame(4, 3, 0, 1, "\x00\x00\x00\x08"), 2000),
		"continuations":             preface + settings + frame(8, 1, 0, 1, "\x83\x86\x84\x83\x83\x86\x84\x83") + strings.Repeat(frame(16, 9, 0, 1, strings.Repeat("\x83", 16)), 5000),
	}
}

// throw sends text and reads until the other side closes, or has said nothing for a
// while: some of the garbage is a legal beginning.
func throw(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, conn)
	}()
	_, _ = io.WriteString(conn, text) // it may be cut off in the middle
	if strings.HasPrefix(preface, text) {
		_ = conn.Close() // a legal beginning: nobody owes it an answer
	}
	<-done
}

// TestGarbageOnThePortsHurtsNobodyElse throws garbage at the hub's port (as a
// stranger, and with a node's certificate), at its metrics port, at the agent's
// port and at the agent's socket. All go on working.
func TestGarbageOnThePortsHurtsNobodyElse(t *testing.T) {
	s := sharedSite(t)
	node := load(t, nodeFiles(s.agent))
	overTLS := func(addr string, config *tls.Config) func(*testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			config := config.Clone()
			config.NextProtos = []string{"h2"}
			conn, err := tls.Dial("tcp", addr, config)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
	}
	plain := func(network, addr string) func(*testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			conn, err := net.Dial(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
	}
	_, pin := s.Token()
	stranger, _, err := mtls.PinnedClientConfig(pin)
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(*testing.T) net.Conn{
		"hub without TLS":           plain("tcp", s.hub.Address),
		"hub as a stranger":         overTLS(s.hub.Address, stranger),
		"hub as a node":             overTLS(s.hub.Address, mtls.ClientConfig(node, nil)),
		"hub's metrics":             overTLS(s.hub.Metrics, mtls.ClientConfig(node, nil)),
		"agent's port without TLS":  plain("tcp", s.agent.Ready["listen"]),
		"agent's port as a node":    overTLS(s.agent.Ready["listen"], mtls.ClientConfig(node, anyone)),
		"agent's socket":            plain("unix", s.agent.Ready["socket"]),
		"agent's metrics as a node": overTLS(s.agent.Ready["metrics"], mtls.ClientConfig(node, anyone)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, text := range garbage() {
				throw(t, open(t), text)
			}
		})
	}
	t.Cleanup(func() {
		s.hubWorks(t)
		if got := status(t, s.Cluster, s.agent); !got.Connected || got.Phase != "active" && got.Phase != "staging" {
			t.Errorf("after the garbage the agent is %+v", got)
		}
		for _, name := range []string{"hub", s.agent.Node} {
			if log := s.Log(name); strings.Contains(log, "panic") || strings.Contains(log, "level=ERROR") {
				t.Errorf("%s's log after the garbage:\n%s", name, log)
			}
		}
	})
}

// anyone accepts whatever the certificate says: for an agent's own ports.
func anyone(identity.ID) error { return nil }

// TestMalformedControlMessagesEndOneStream sends on a control stream, with a node's
// certificate, what is no message, too large a message, and messages out of order.
// Each is answered with a code; the node's real agent comes back by itself.
func TestMalformedControlMessagesEndOneStream(t *testing.T) {
	s := sharedSite(t)
	intruder := s.JoinAgent(s.hub, "intruder", "region=eu")
	conn := dial(t, s.hub, nodeFiles(intruder))
	hello, err := wire.Encode(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{
		Node: "intruder", Capabilities: []string{"core/v1"}, Protocols: []string{"v1"}, Build: "test",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	say := func(m *controlv1.StreamRequest) *wire.Frame {
		f, err := wire.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	helloOf := func(h *controlv1.Hello) *wire.Frame {
		return say(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: h}})
	}
	ack := say(&controlv1.StreamRequest{Message: &controlv1.StreamRequest_Ack{Ack: &controlv1.Ack{Version: 1, Digest: []byte("short")}}})
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("cap-%d/v1", i)
	}
	// What cannot be decoded is answered by gRPC itself, which knows no codes of ours.
	for name, c := range map[string]struct {
		send  []*wire.Frame
		codes []fault.Code
	}{
		"no protobuf":             {[]*wire.Frame{wire.NewFrame(bytes.Repeat([]byte{0xff}, 100))}, []fault.Code{fault.CodeRemoteRefused}},
		"no protobuf after hello": {[]*wire.Frame{hello, wire.NewFrame(bytes.Repeat([]byte{0xff}, 100))}, []fault.Code{fault.CodeRemoteRefused}},
		"empty message":           {[]*wire.Frame{wire.NewFrame()}, []fault.Code{fault.CodeMessageOrder, fault.CodeHello}},
		"ack before hello":        {[]*wire.Frame{ack}, []fault.Code{fault.CodeMessageOrder, fault.CodeHello}},
		"hello twice":             {[]*wire.Frame{hello, hello}, []fault.Code{fault.CodeMessageOrder}},
		"digest of 5 bytes":       {[]*wire.Frame{hello, ack}, []fault.Code{fault.CodeNodeMessage}},
		"another node's name":     {[]*wire.Frame{helloOf(&controlv1.Hello{Node: "node-1", Capabilities: []string{"core/v1"}, Protocols: []string{"v1"}})}, []fault.Code{fault.CodeHelloNode}},
		"escape in the build":     {[]*wire.Frame{helloOf(&controlv1.Hello{Node: "intruder", Build: "\x1b[2J", Protocols: []string{"v1"}})}, []fault.Code{fault.CodeHello}},
		"too many capabilities":   {[]*wire.Frame{helloOf(&controlv1.Hello{Node: "intruder", Capabilities: many, Protocols: []string{"v1"}})}, []fault.Code{fault.CodeHello}},
		"message of 5 MiB":        {[]*wire.Frame{wire.NewFrame(make([]byte, 5<<20))}, []fault.Code{fault.CodeRemoteLimit}},
		"hello of 1 MiB":          {[]*wire.Frame{helloOf(&controlv1.Hello{Node: "intruder", Build: strings.Repeat("x", 1<<20)})}, []fault.Code{fault.CodeRemoteLimit}},
	} {
		var got error
		if err := harness.Poll(harness.Patience, func() (bool, error) {
			got = exchange(t, conn, c.send)
			return fault.CodeOf(got) != fault.CodeAdmission, nil // one node may open only so many streams
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantCode(t, name, got, c.codes...)
	}
	s.hubWorks(t)
	if r := s.Run("meshctl", "describe", "agent", "intruder"); strings.ContainsFunc(r.Stdout, acts) {
		t.Errorf("what the intruder said of itself acts on the terminal: %q", r.Stdout)
	}
	s.Ctl("agent", "forget", "intruder")
}

// exchange opens a control stream, sends frames, and gives the error that ends it.
func exchange(t *testing.T, conn *grpc.ClientConn, frames []*wire.Frame) error {
	t.Helper()
	st, err := conn.NewStream(limited(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, controlv1.ControlService_Stream_FullMethodName)
	if err != nil {
		return err
	}
	for _, f := range frames {
		if err := st.SendMsg(f); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	for {
		var m controlv1.StreamResponse
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
		if n := m.GetNotice(); n != nil && n.GetClosing() {
			return fault.New(fault.Code(n.GetCode()), "%s", n.GetMessage())
		}
	}
}

// TestCertificatesOpenOnlyTheirOwnDoors uses a node's certificate on the admin API,
// an operator's on the control stream, none at all, and that of another domain.
func TestCertificatesOpenOnlyTheirOwnDoors(t *testing.T) {
	s := sharedSite(t)
	s.unchanged(t)
	flags := func(f mtls.Files) []string {
		return []string{"--hub", s.hub.Address, "--ca-file", f.CA, "--cert-file", f.Cert, "--key-file", f.Key}
	}
	node := flags(nodeFiles(s.agent))
	for _, args := range [][]string{
		{"get", "routes"}, {"apply", "-f", s.mesh}, {"undo"}, {"token", "create"}, {"agent", "forget", "node-1"}, {"key", "rotate"}, {"get", "agents"}, {"trust", "show"},
	} {
		wantRefused(t, s.Run("meshctl", append(args, node...)...), 4, fault.CodeNotPermitted, "node/node-1")
	}
	hello := &controlv1.StreamRequest{Message: &controlv1.StreamRequest_Hello{Hello: &controlv1.Hello{Node: "node-1", Protocols: []string{"v1"}}}}
	f, err := wire.Encode(hello)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "operator on the control stream", exchange(t, dial(t, s.hub, adminFiles(s.hub)), []*wire.Frame{f}), fault.CodeNotPermitted)

	_, pin := s.Token()
	config, _, err := mtls.PinnedClientConfig(pin)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := grpc.NewClient("passthrough:///"+s.hub.Address, append(wire.DialOptions(wire.DialConfig{}), grpc.WithTransportCredentials(credentials.NewTLS(config)))...)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_, err = adminv1.NewResourceServiceClient(stranger).List(limited(t), &adminv1.ListRequest{})
	wantCode(t, "no certificate on the admin API", err, fault.CodeNoClientCert, fault.CodeNotOffered)
	wantCode(t, "no certificate on the control stream", exchange(t, stranger, []*wire.Frame{f}), fault.CodeNoClientCert, fault.CodeNotOffered)
	_, err = identityv1.NewIdentityServiceClient(stranger).Renew(limited(t), &identityv1.RenewRequest{Csr: []byte("x")})
	wantCode(t, "no certificate on Renew", err, fault.CodeNoClientCert)

	// Another domain's operator, whose own files are in order.
	s.Must("meshhub", "init", "--domain", "us-east", "--data", s.Path("other"))
	at := func(name string) string { return s.Path("other", "admin", name) }
	foreign := mtls.Files{Cert: at("admin.pem"), Key: at("admin.key"), CA: at("ca.pem")}
	wantRefused(t, s.Run("meshctl", append([]string{"get", "routes"}, flags(foreign)...)...), 4, fault.CodeHandshake)
	foreign.CA = adminFiles(s.hub).CA // it trusts our hub; our hub does not trust it
	wantRefused(t, s.Run("meshctl", append([]string{"get", "routes"}, flags(foreign)...)...), 4, "")
	wantRefused(t, s.Run("meshctl", append([]string{"get", "routes"}, flags(mtls.Files{CA: s.mesh, Cert: s.mesh, Key: s.mesh})...)...), 4, fault.CodeCredentials)
}

// TestOnlyTLS13IsSpoken asks each port for an older version.
func TestOnlyTLS13IsSpoken(t *testing.T) {
	s := sharedSite(t)
	node := load(t, nodeFiles(s.agent))
	for name, addr := range map[string]string{"hub": s.hub.Address, "hub's metrics": s.hub.Metrics, "agent": s.agent.Ready["listen"], "agent's metrics": s.agent.Ready["metrics"]} {
		config := mtls.ClientConfig(node, anyone)
		conn, err := tls.Dial("tcp", addr, config)
		if err != nil {
			t.Errorf("%s at %s refuses TLS 1.3: %v", name, addr, err)
			continue
		}
		conn.Close()
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS12
		conn, err = tls.Dial("tcp", addr, config)
		if err == nil {
			conn.Close()
			t.Errorf("%s speaks TLS 1.2", name)
		} else if !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s: %v, want an alert about the version", name, err)
		}
	}
}

// TestANodeCannotHaveAnothersCertificate asks Renew for certificates in other names.
func TestANodeCannotHaveAnothersCertificate(t *testing.T) {
	s := sharedSite(t)
	s.unchanged(t)
	api := identityv1.NewIdentityServiceClient(dial(t, s.hub, nodeFiles(s.agent)))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spiffe := func(path string) []*url.URL { return []*url.URL{{Scheme: "spiffe", Host: "eu-west", Path: path}} }
	for name, template := range map[string]*x509.CertificateRequest{
		"another node": {URIs: spiffe("/node/node-2")},
		"an operator":  {URIs: spiffe("/operator/admin")},
		"a hub":        {URIs: spiffe("/hub/hub1")},
		"two names":    {URIs: append(spiffe("/node/node-1"), spiffe("/node/node-2")...)},
		"a DNS name":   {DNSNames: []string{"hub.example"}},
		"an address":   {IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}},
	} {
		csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = api.Renew(limited(t), &identityv1.RenewRequest{Csr: csr})
		wantCode(t, name, err, fault.CodeForeignCSR)
	}
	_, err = api.Renew(limited(t), &identityv1.RenewRequest{Csr: []byte("no request at all")})
	wantCode(t, "garbage", err, fault.CodeCSRInvalid)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: spiffe("/node/node-1")}, key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.Renew(limited(t), &identityv1.RenewRequest{Csr: csr})
	if err != nil || len(got.GetCertificateChain()) == 0 {
		t.Fatalf("its own name: %v", err)
	}
	cert, err := x509.ParseCertificate(got.GetCertificateChain()[0])
	if err != nil || len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://eu-west/node/node-1" {
		t.Errorf("renewed for %v (%v)", cert.URIs, err)
	}
}
