package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// keysetRotation replaces the key that signs keysets, together with a root that
// names the new one. Files are written in this order:
//
//	keyset-root-N.key            the new key; found again by another try
//	keyset-root-N.json           the keyset that it signed
//	keyset-before-root-N.key     a link to the old key, so that nothing is lost
//	keyset.key                   the new key, renamed over the old
//	root-N.json                  by the caller
//
// A crash before the last leaves the newest root as it was: the rotation can be
// run again. Until root and keyset are published the hub signs no keyset that is
// accepted, and agents keep the old one.
type keysetRotation struct {
	dir, metadata string
	version       uint64 // of the next root
	key           *sign.Signer
	target        string // file of the new keyset
}

func (o *rotateOptions) newKeysetRotation(ctx context.Context, passphrase []byte, version uint64) (*keysetRotation, error) {
	k := &keysetRotation{dir: o.hubKeys, metadata: o.metadata, version: version}
	if k.dir == "" {
		k.dir = filepath.Join(o.data, "keys")
	}
	d, err := builtin.Signer("file", k.dir, passphrase)
	if err != nil {
		return nil, err
	}
	k.key, err = sign.Create(ctx, d, k.fresh(), sign.Ed25519)
	if fault.CodeOf(err) == fault.CodeKeyExists { // from a try that did not get further
		k.key, err = sign.Open(ctx, d, k.fresh())
	}
	return k, err
}

func (k *keysetRotation) fresh() string {
	return fmt.Sprintf("%s-root-%d", keyring.KeysetKey, k.version)
}
func (k *keysetRotation) aside() string {
	return fmt.Sprintf("%s-before-root-%d", keyring.KeysetKey, k.version)
}
func (k *keysetRotation) path(name string) string { return filepath.Join(k.dir, name+".key") }

// install signs the present keyset with the new key, checks root and keyset as
// hub and agents will, and puts the key where the hub looks for it.
func (k *keysetRotation) install(prev, next []byte, rootDir string) error {
	m := &trustv1.Metadata{Roots: [][]byte{prev}}
	for name, to := range map[string]*[]byte{"keyset.json": &m.Keyset, "ca-bundle.pem": &m.CaBundle} {
		data, err := os.ReadFile(filepath.Join(k.metadata, name))
		if err != nil {
			return fault.New(fault.CodeIO, "read the present metadata: %w", err).WithRemedy("Save it with `meshctl trust show --save %s`.", k.metadata)
		}
		*to = data
	}
	domain, err := trust.InspectDomain(prev)
	if err != nil {
		return err
	}
	anchors, err := trust.FromMetadata(domain, m)
	if err != nil {
		return err
	}
	now := time.Now()
	keyset, err := trust.EditKeyset(m.GetKeyset(), trust.KeysetEdit{Expires: now.Add(keyring.KeysetLifetime)}, k.key)
	if err != nil {
		return err
	}
	if _, err := anchors.Update(&trustv1.Metadata{Roots: [][]byte{next}, Keyset: keyset}, now); err != nil {
		return fault.New(fault.CodeOf(err), "the new root and keyset do not follow what is in %s: %w", k.metadata, err).
			WithRemedy("Save the present metadata again with `meshctl trust show --save %s`.", k.metadata)
	}
	k.target = filepath.Join(rootDir, k.fresh()+".json")
	if err := durable.WriteFile(durable.OS, k.target, keyset, 0o644); err != nil {
		return fault.New(fault.CodeIO, "write the keyset: %w", err)
	}
	// A lost key has no file; a link that is there is from an earlier try.
	if err := os.Link(k.path(keyring.KeysetKey), k.path(k.aside())); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return fault.New(fault.CodeIO, "keep the old keyset key: %w", err)
	}
	if err := durable.Rename(durable.OS, k.path(k.fresh()), k.path(keyring.KeysetKey)); err != nil {
		return fault.New(fault.CodeIO, "install the new keyset key: %w", err)
	}
	return nil
}
