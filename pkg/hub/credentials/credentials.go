// Package credentials makes keys beside a hub's CA, has it certify them, and writes them
// as the files that hubs and meshctl read. What is issued here is not in the domain's log.
//
//	DIR/ann.{pem,key}    chain and key of operator ann
//	DIR/ca.pem           the CA bundle
//	DIR/context.yaml     a meshctl context with these files
package credentials

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/join"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// Issue has the CA certify a new key of id, and writes key, chain and CA bundle. Of req,
// it sets the identity and the request.
func Issue(ctx context.Context, authority *ca.Authority, id identity.ID, req ca.Request, to mtls.Files) (*mtls.Source, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	req.ID = id
	if req.CSR, err = ca.NewCSR(key, id); err != nil {
		return nil, err
	}
	cert, err := authority.Issue(ctx, req)
	if err != nil {
		return nil, err
	}
	source, err := mtls.NewSource(tls.Certificate{Certificate: cert.Chain, PrivateKey: key}, authority.Bundle())
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(durable.OS, filepath.Dir(to.Cert), 0o700); err != nil {
		return nil, fault.New(fault.CodeIO, "make %s: %w", filepath.Dir(to.Cert), err)
	}
	return source, source.SaveFiles(to)
}

// OperatorFiles are an operator's files in dir.
func OperatorFiles(dir, operator string) mtls.Files {
	return mtls.Files{Cert: filepath.Join(dir, operator+".pem"), Key: filepath.Join(dir, operator+".key"), CA: filepath.Join(dir, "ca.pem")}
}

// ContextFile is the meshctl context in dir.
func ContextFile(dir string) string { return filepath.Join(dir, "context.yaml") }

// IssueOperator issues an operator's certificate into dir, which is absolute, with a
// context for the hub at an address. What is there of the same names is replaced.
func IssueOperator(ctx context.Context, authority *ca.Authority, domain, operator, hub, dir string) (*mtls.Source, error) {
	id, err := identity.New(domain, identity.Operator, operator)
	if err != nil {
		return nil, err
	}
	to := OperatorFiles(dir, operator)
	source, err := Issue(ctx, authority, id, ca.Request{TTL: join.OperatorTTL}, to)
	if err != nil {
		return nil, err
	}
	return source, hubdir.WriteFile(ContextFile(dir), []byte(contextText(domain, hub, to)), 0o600)
}

// contextText is a meshctl context with an operator's files.
func contextText(domain, hub string, f mtls.Files) string {
	return fmt.Sprintf(`# A meshctl context: add it with "meshctl context add --from", or name it in MESHKIT_CONFIG.
currentContext: %[1]s
contexts:
  - name: %[1]s
    hub: %[2]s
    domain: %[1]s
    caFile: %[3]s
    certFile: %[4]s
    keyFile: %[5]s
`, strconv.Quote(domain), strconv.Quote(hub), strconv.Quote(f.CA), strconv.Quote(f.Cert), strconv.Quote(f.Key))
}
