package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"sync"

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

// sealedKeys opens directories of keys with the passphrase in a file. That is read with
// the first of them and not again: it may be a pipe.
func sealedKeys(passphraseFile string) func(dir string) (sign.Driver, error) {
	read := sync.OnceValues(func() ([]byte, error) { return readPassphrase(passphraseFile) })
	return func(dir string) (sign.Driver, error) {
		passphrase, err := read()
		if err != nil {
			return nil, err
		}
		return builtin.Signer("file", dir, passphrase)
	}
}
