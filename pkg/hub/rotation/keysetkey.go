package rotation

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
)

// KeysetOptions say where what concerns the keyset is.
type KeysetOptions struct {
	// HubKeys is the hub's directory of keys.
	HubKeys string
	// Metadata is the directory that `meshctl trust show --save` wrote just before.
	Metadata string
}

// KeysetKey is a new key that signs keysets, together with a root that names it. Files
// are written in this order:
//
//	keyset-root-N.key            the new key; found again by another try
//	keyset-root-N.json           the keyset that it signed, beside the root
//	keyset-before-root-N.key     a link to the old key, so that nothing is lost
//	keyset.key                   the new key, renamed over the old
//	root-N.json                  the root, see Rotate
//
// A crash before the last leaves the newest root as it was: the rotation can be
// run again. Until root and keyset are published the hub signs no keyset that is
// accepted, and agents keep the old one.
type KeysetKey struct {
	dir     string // of the hub's keys
	version uint64 // of the next root
	key     *sign.Signer
	// File of the keyset that the key signed.
	File string
}

func newKeysetKey(ctx context.Context, o Options, version uint64) (*KeysetKey, error) {
	k := &KeysetKey{dir: o.Keyset.HubKeys, version: version}
	k.File = filepath.Join(o.Dir, k.fresh()+".json")
	d, err := o.Keys(k.dir)
	if err != nil {
		return nil, err
	}
	k.key, err = createOrOpen(ctx, d, k.fresh())
	return k, err
}

// KeyID is that of the new key.
func (k *KeysetKey) KeyID() string { return k.key.KeyID() }

// KeyFile is where the hub finds the new key.
func (k *KeysetKey) KeyFile() string { return k.path(keyring.KeysetKey) }

// OldKeyFile is where the key before it is kept, if there was one.
func (k *KeysetKey) OldKeyFile() string {
	return k.path(fmt.Sprintf("%s-before-root-%d", keyring.KeysetKey, k.version))
}

// fresh is the new key's name until it is installed.
func (k *KeysetKey) fresh() string { return fmt.Sprintf("%s-root-%d", keyring.KeysetKey, k.version) }

func (k *KeysetKey) path(name string) string { return filepath.Join(k.dir, name+".key") }

// install signs the present keyset with the new key, checks root and keyset as
// hub and agents will, and puts the key where the hub looks for it.
func (k *KeysetKey) install(prev, next []byte, metadata string) error {
	m := &trustv1.Metadata{Roots: [][]byte{prev}}
	for name, to := range map[string]*[]byte{"keyset.json": &m.Keyset, "ca-bundle.pem": &m.CaBundle} {
		data, err := os.ReadFile(filepath.Join(metadata, name))
		if err != nil {
			return fault.New(fault.CodeIO, "read the present metadata: %w", err).WithRemedy("Save it with `meshctl trust show --save %s`.", metadata)
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
		return fault.New(fault.CodeOf(err), "the new root and keyset do not follow what is in %s: %w", metadata, err).
			WithRemedy("Save the present metadata again with `meshctl trust show --save %s`.", metadata)
	}
	if err := durable.WriteFile(durable.OS, k.File, keyset, 0o644); err != nil {
		return fault.New(fault.CodeIO, "write the keyset: %w", err)
	}
	// A lost key has no file; a link that is there is from an earlier try.
	if err := os.Link(k.KeyFile(), k.OldKeyFile()); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return fault.New(fault.CodeIO, "keep the old keyset key: %w", err)
	}
	if err := durable.Rename(durable.OS, k.path(k.fresh()), k.KeyFile()); err != nil {
		return fault.New(fault.CodeIO, "install the new keyset key: %w", err)
	}
	return nil
}
