//go:build linux

package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/distribution"
	"github.com/meshkit/meshkit/pkg/hub"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// hubFiles are the hub's certificate in a directory that "meshhub init" made.
func hubFiles(dir string) mtls.Files {
	return mtls.Files{Cert: filepath.Join(dir, "tls", "hub.pem"), Key: filepath.Join(dir, "tls", "hub.key"), CA: filepath.Join(dir, "ca", "root.pem")}
}

// hubPart is a whole hub over a directory that "meshhub init" made, as cmd/meshhub puts
// it together: its log on bolt, cfssl, keys in files, TLS. It is not the program itself
// so that it can be asked for its memory without garbage.
func hubPart(s serverSpec) (handlers, error) {
	h, err := assembleHub(s.Dir)
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Run(context.Background()) }() // ends with the process
	select {
	case <-h.Ready():
	case err := <-ended:
		return nil, fmt.Errorf("the hub ended: %w", err)
	}
	return handlers{
		"start": func(json.RawMessage) (any, error) {
			listen, _ := h.Addresses()
			return started{Address: listen}, nil
		},
		"memory": memory,
	}, nil
}

func assembleHub(dir string) (*hub.Hub, error) {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	keys, err := builtin.Signer("file", filepath.Join(dir, "keys"), nil)
	if err != nil {
		return nil, err
	}
	authority, err := loadAuthority(ctx, dir, log)
	if err != nil {
		return nil, err
	}
	source, err := mtls.LoadFiles(hubFiles(dir))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return hub.New(hub.Options{
		Domain: domain, Name: source.ID().Name, StoreName: "bolt", Keys: keys, Authority: authority, TLS: source, Listener: l, Logger: log,
		OpenLog: func(ctx context.Context) (*store.Log, error) {
			return builtin.OpenLog(ctx, "bolt", domain, builtin.StoreOptions{Path: filepath.Join(dir, "store.db")})
		},
		CertificateGrace: 72 * time.Hour,
		// The crowd that connects at the start is not what is measured here.
		Distribution: distribution.ServerConfig{AdmissionRate: 1e6, AdmissionBurst: 1e6},
	})
}

func loadAuthority(ctx context.Context, dir string, log *slog.Logger) (*ca.Authority, error) {
	bundle, err := os.ReadFile(filepath.Join(dir, "ca", "root.pem"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "ca", "intermediate.pem"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no certificate in %s", dir)
	}
	issuer, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	keys, err := builtin.Signer("file", filepath.Join(dir, "ca"), nil)
	if err != nil {
		return nil, err
	}
	key, err := keys.Open(ctx, "intermediate")
	if err != nil {
		return nil, err
	}
	driver, err := builtin.CA("cfssl", issuer, key, log)
	if err != nil {
		return nil, err
	}
	return ca.New(domain, driver, bundle, ca.Options{})
}
