// Package join admits a node to a domain: it makes a key that never leaves the
// node, spends a token use for a certificate, pins the root of trust, and writes a
// data directory that `meshagent run` starts from.
//
//	result, err := join.Join(ctx, join.Request{Hub: …, Token: …, Pin: …, Dir: …, Node: …})
//
// # Order of writing, and what a crash after each step leaves
//
//	write joining/{request.json,node.key,csr.der}   a repetition goes on with the same request, which costs no second token use
//	ask the hub                                     the same
//	write tls/, trust/                              the same
//	write meshagent.yaml                            joined
//	remove joining/                                 joined
//
// The hub is authenticated by the CA pin alone; what it answers is verified against
// the pin and itself before anything is stored. Functions are safe for concurrent
// use with different directories.
package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/meshkit/meshkit/pkg/agent"
	"github.com/meshkit/meshkit/pkg/agent/local"
	identityv1 "github.com/meshkit/meshkit/pkg/api/meshkit/identity/v1"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/trust"
)

// DefaultTimeout bounds a join when Request has none.
const DefaultTimeout = 30 * time.Second

// Request is what is needed to join.
type Request struct {
	// Hub is host:port of any hub of the domain; Pin its CA pin, "sha256:…".
	Hub, Token, Pin string
	// Dir is made if it does not exist.
	Dir string
	// Node is the name to join under.
	Node string
	// Listen and Metrics are addresses for the configuration; Socket a path, empty
	// for the default.
	Listen, Metrics, Socket string
	// NoBundle leaves the bundle file out of the configuration.
	NoBundle bool
	// Timeout bounds the whole; 0 means DefaultTimeout.
	Timeout time.Duration
	// DialOptions are added to those of the connection.
	DialOptions []grpc.DialOption
}

// Result is what came of it.
type Result struct {
	Domain, Node string
	ID           identity.ID
	Labels       map[string]string
	// Config is the path of the configuration that was written.
	Config   string
	NotAfter time.Time
}

// Joined tells whether dir holds a node's identity already.
func Joined(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, agent.ConfigName))
	return err == nil
}

// Join joins. Repeating it after any failure or crash is safe. Codes:
// CodeJoinArguments, CodeAlreadyJoined, CodeJoinOtherTarget, CodeJoinAnswer,
// CodeAgentDirectoryInUse, those of PinnedClientConfig, and the hub's.
func Join(ctx context.Context, r Request) (*Result, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.Timeout <= 0 {
		r.Timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	dir, err := filepath.Abs(r.Dir)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "find directory %s: %w", r.Dir, err)
	}
	r.Dir = dir
	if err := durable.MkdirAll(durable.OS, dir, 0o700); err != nil {
		return nil, fault.New(fault.CodeIO, "make data directory: %w", err)
	}
	unlock, err := agent.LockDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if Joined(dir) {
		return nil, fault.New(fault.CodeAlreadyJoined, "%s holds a node's identity already", dir)
	}
	p, err := prepare(r)
	if err != nil {
		return nil, err
	}
	answer, hub, err := ask(ctx, r, p)
	if err != nil {
		if p.begun && !p.unsure {
			// Refused at the first word: nothing was spent, so another pin, name or
			// directory may be tried at once.
			_ = os.RemoveAll(filepath.Join(r.Dir, "joining"))
		}
		return nil, unanswered(err, p)
	}
	return store(r, p, answer, hub)
}

// unanswered says how a join goes on that may have been granted: it keeps its request
// id in the directory.
func unanswered(err error, p *pending) error {
	const again = "un the same command again, with a longer --timeout if need be: it goes on with the same request, which spends no second use of the token."
	code := fault.CodeOf(err)
	if code == "" || !p.unsure {
		return err
	}
	switch fault.KindOf(err) {
	case fault.Unavailable: // what keeps the hub from answering comes first
		return fault.New(code, "%w", err).WithRemedy("%s Then r%s", fault.RemedyOf(err), again)
	case fault.Timeout, fault.Canceled, fault.Unknown:
		return fault.New(code, "%w", err).WithRemedy("R%s", again)
	}
	return err
}

func (r Request) check() error {
	if r.Listen != "" {
		// Before the token is spent: the agent would not start with it.
		if err := local.CheckListen(r.Listen); err != nil {
			return err
		}
	}
	if _, _, err := net.SplitHostPort(r.Hub); err != nil {
		return fault.New(fault.CodeJoinArguments, "hub address %q is not host:port", r.Hub)
	}
	if r.Token == "" || len(r.Token) > 1024 || strings.ContainsFunc(r.Token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fault.New(fault.CodeJoinArguments, "the token is empty or not one that a hub made")
	}
	if r.Dir == "" {
		return fault.New(fault.CodeJoinArguments, "no data directory is named")
	}
	if err := identity.ValidName(r.Node); err != nil {
		return fault.New(fault.CodeJoinArguments, "node name: %w", err)
	}
	_, _, err := mtls.PinnedClientConfig(r.Pin)
	return err
}

// pending is a join that has begun.
type pending struct {
	key       *ecdsa.PrivateKey
	csr       []byte
	requestID string
	// begun: by this call, not by an earlier one.
	begun bool
	// unsure: a request was not answered, so it may have been granted.
	unsure bool
}

// intent is joining/request.json.
type intent struct {
	Node      string `json:"node"`
	Pin       string `json:"pin"`
	RequestID string `json:"requestId"`
}

// maxFile bounds the files of a pending join.
const maxFile = 64 << 10

// prepare goes on with a join that has begun, or begins one.
func prepare(r Request) (*pending, error) {
	dir := filepath.Join(r.Dir, "joining")
	data, err := durable.ReadFile(durable.OS, filepath.Join(dir, "request.json"), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return begin(r, dir)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read unfinished join: %w", err)
	}
	var in intent
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fault.New(fault.CodeJoinOtherTarget, "unfinished join in %s cannot be read: %w", dir, err)
	}
	if in.Node != r.Node || in.Pin != r.Pin {
		return nil, fault.New(fault.CodeJoinOtherTarget, "%s holds an unfinished join of node %q with CA pin %s", dir, in.Node, in.Pin)
	}
	p := &pending{requestID: in.RequestID}
	if p.key, err = readKey(filepath.Join(dir, "node.key")); err != nil {
		return nil, err
	}
	if p.csr, err = durable.ReadFile(durable.OS, filepath.Join(dir, "csr.der"), maxFile); err != nil {
		return nil, fault.New(fault.CodeIO, "read unfinished join: %w", err)
	}
	return p, nil
}

// begin makes key, request and request id; request.json comes last and makes them
// count.
func begin(r Request, dir string) (*pending, error) {
	key, csr, err := agent.NewJoinRequest()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "encode key: %w", err)
	}
	in := intent{Node: r.Node, Pin: r.Pin, RequestID: rand.Text()}
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "encode join request: %w", err)
	}
	if err := durable.MkdirAll(durable.OS, dir, 0o700); err != nil {
		return nil, fault.New(fault.CodeIO, "begin join: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"node.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})},
		{"csr.der", csr},
		{"request.json", data},
	} {
		if err := durable.WriteFile(durable.OS, filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return nil, fault.New(fault.CodeIO, "begin join: %w", err)
		}
	}
	return &pending{key: key, csr: csr, requestID: in.RequestID, begun: true}, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := durable.ReadFile(durable.OS, path, maxFile)
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read unfinished join: %w", err)
	}
	if block, _ := pem.Decode(text); block != nil {
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if k, ok := key.(*ecdsa.PrivateKey); ok {
				return k, nil
			}
		}
	}
	return nil, fault.New(fault.CodeJoinOtherTarget, "the key of the unfinished join in %s cannot be read", path)
}

// ask sends the request until it is answered, for good or ill.
func ask(ctx context.Context, r Request, p *pending) (*identityv1.JoinResponse, identity.ID, error) {
	got, err := client.AskPinned(ctx, r.Hub, r.Pin, r.DialOptions, func(ctx context.Context, c identityv1.IdentityServiceClient) (*identityv1.JoinResponse, error) {
		return c.Join(ctx, &identityv1.JoinRequest{Token: r.Token, Node: r.Node, Csr: p.csr, RequestId: p.requestID})
	})
	p.unsure = p.unsure || got.Unsure
	return got.Answer, got.Hub, err
}

// store verifies the answer and writes the data directory.
func store(r Request, p *pending, answer *identityv1.JoinResponse, hub identity.ID) (*Result, error) {
	bad := func(format string, args ...any) error { return fault.New(fault.CodeJoinAnswer, format, args...) }
	if answer.GetDomain() != hub.Domain {
		return nil, bad("%s answered for domain %q", hub, answer.GetDomain())
	}
	anchors, err := trust.Join(hub.Domain, answer.GetTrust(), time.Now())
	if err != nil {
		return nil, bad("trust metadata: %w", err)
	}
	if !pinned(anchors.CABundle(), r.Pin) {
		return nil, bad("the CA bundle does not hold the pinned CA")
	}
	source, err := mtls.NewSource(tls.Certificate{Certificate: answer.GetCertificateChain(), PrivateKey: p.key}, anchors.CABundle())
	if err != nil {
		return nil, bad("certificate: %w", err)
	}
	want, err := identity.New(hub.Domain, identity.Node, r.Node)
	if err != nil {
		return nil, err
	}
	if source.ID() != want {
		return nil, bad("the certificate is for %s, and %s was asked for", source.ID(), want)
	}
	if err := issuedBy(answer.GetCertificateChain(), anchors.CABundle()); err != nil {
		return nil, bad("certificate: %w", err)
	}
	if err := write(r, source, anchors, answer); err != nil {
		return nil, err
	}
	return &Result{
		Domain: hub.Domain, Node: r.Node, ID: want, Labels: answer.GetLabels(),
		Config: filepath.Join(r.Dir, agent.ConfigName), NotAfter: source.NotAfter(),
	}, nil
}

// pinned tells whether a bundle holds the CA that the pin names.
func pinned(bundle []byte, pin string) bool {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		if "sha256:"+hex.EncodeToString(sum[:]) == strings.ToLower(pin) {
			return true
		}
	}
	return false
}

// issuedBy checks that a chain leads to the bundle.
func issuedBy(chain [][]byte, bundle []byte) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	for _, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		intermediates.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func write(r Request, source *mtls.Source, anchors *trust.Anchors, answer *identityv1.JoinResponse) error {
	for _, sub := range []string{"tls", "trust"} {
		if err := durable.MkdirAll(durable.OS, filepath.Join(r.Dir, sub), 0o700); err != nil {
			return fault.New(fault.CodeIO, "store identity: %w", err)
		}
	}
	tlsFile := func(name string) string { return filepath.Join(r.Dir, "tls", name) }
	if err := source.SaveFiles(mtls.Files{Cert: tlsFile("node.pem"), Key: tlsFile("node.key"), CA: tlsFile("ca.pem")}); err != nil {
		return err
	}
	data, err := anchors.Marshal()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(durable.OS, filepath.Join(r.Dir, "trust", "anchors"), data, 0o600); err != nil {
		return fault.New(fault.CodeIO, "store trust metadata: %w", err)
	}
	text := configText(r, source.ID(), anchors.Pin(), hubs(r.Hub, answer.GetHubs()))
	if err := durable.WriteFile(durable.OS, filepath.Join(r.Dir, agent.ConfigName), text, 0o600); err != nil {
		return fault.New(fault.CodeIO, "store configuration: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(r.Dir, "joining")); err != nil {
		return fault.New(fault.CodeIO, "finish join: %w", err)
	}
	return nil
}

// hubs lists the hub that answered first, then the others.
func hubs(first string, others []string) []string {
	out := []string{first}
	for _, h := range others {
		if _, _, err := net.SplitHostPort(h); err == nil && !slices.Contains(out, h) && len(out) < 64 {
			out = append(out, h)
		}
	}
	return out
}

// configText writes the settings that join knows; all others have defaults.
func configText(r Request, id identity.ID, trustPin string, hubs []string) []byte {
	var b bytes.Buffer
	put := func(name string, value any) {
		text, _ := json.Marshal(value) // JSON is YAML; strings and lists of strings always encode
		fmt.Fprintf(&b, "%s: %s\n", name, text)
	}
	b.WriteString("# Written by `meshagent join`; docs/runbooks/agent.md explains every setting.\n")
	put("domain", id.Domain)
	put("node", id.Name)
	put("hubs", hubs)
	put("trustPin", trustPin)
	if r.Socket != "" {
		put("socket", r.Socket)
	}
	if r.Listen != "" {
		put("listen", r.Listen)
	}
	if r.Metrics != "" {
		put("metrics", r.Metrics)
	}
	if !r.NoBundle {
		b.WriteString("bundle:\n  path: bundle.json\n")
	}
	return b.Bytes()
}
