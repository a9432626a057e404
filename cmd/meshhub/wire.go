package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"path/filepath"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// foundingDrivers keep a new domain in dir, and its log there or in the store of a URL.
func foundingDrivers(domain, dir, driver, url string, passphrase []byte) founding.Drivers {
	path := filepath.Join(dir, "store.db")
	return founding.Drivers{
		Keys: func(dir string) (sign.Driver, error) { return builtin.Signer("file", dir, passphrase) },
		CA: func(issuer *x509.Certificate, key crypto.Signer) (ca.Driver, error) {
			return builtin.CA("cfssl", issuer, key, slog.New(slog.DiscardHandler))
		},
		OpenLog: func(ctx context.Context) (*store.Log, error) {
			return builtin.OpenLog(ctx, driver, domain, builtin.StoreOptions{Path: path, URL: url, Create: true})
		},
		Store: cmp.Or(url, path),
	}
}
