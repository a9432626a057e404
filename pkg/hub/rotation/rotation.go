// Package rotation makes the next root of trust of a domain, where its root keys are
// kept: with new root keys in place of the old, with a longer life, or with a new key
// that signs keysets. It needs no hub and no network, and writes files that are then
// published; nothing is replaced until that is done.
//
//	root/root-vN-1.key, …        the new root keys; found again by another try
//	keys/keyset-root-N.key …     with a new keyset key: see KeysetKey
//	root/root-N.json             the next root, last
//
// A crash before the last leaves the newest root as it was: the rotation can be run
// again. One rotation at a time works on a directory.
package rotation

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
)

// Options of a rotation. Dir, Keys and Expires are required.
type Options struct {
	// Dir holds root keys and root metadata, and gets the new ones.
	Dir string
	// Keys opens a directory of keys.
	Keys func(dir string) (sign.Driver, error)
	// From is the file of the newest root metadata; empty: the newest in Dir.
	From string
	// Expires is when the new root does.
	Expires time.Time
	// KeepKeys leaves the root keys as they are.
	KeepKeys bool
	// RootThreshold of RootKeys new keys change the root from then on; 0: as before.
	RootKeys, RootThreshold int
	// Keyset, if set, also replaces the key that signs keysets.
	Keyset *KeysetOptions
}

// Result is what a rotation made.
type Result struct {
	// Version is that of the new root, which is in File.
	Version uint64
	File    string
	// Old are the root keys that signed, Fresh the ones that take their place.
	Old, Fresh []*sign.Signer
	// Keyset is nil if the keyset key stays.
	Keyset *KeysetKey
}

// Rotate makes the next root, signed by the present root keys and the new ones.
// CodeRootUnsigned: too few of the present ones are in Dir.
func Rotate(ctx context.Context, o Options) (Result, error) {
	path, err := o.newest()
	if err != nil {
		return Result{}, err
	}
	prev, err := os.ReadFile(path)
	if err != nil {
		return Result{}, fault.New(fault.CodeIO, "read the root metadata: %w", err)
	}
	info, err := trust.InspectRoot(prev)
	if err != nil {
		return Result{}, err
	}
	d, err := o.Keys(o.Dir)
	if err != nil {
		return Result{}, err
	}
	out := Result{Version: info.Version + 1, File: filepath.Join(o.Dir, hubdir.RootFile(info.Version+1))}
	if out.Old, err = present(ctx, d, o.Dir, info); err != nil {
		return Result{}, err
	}
	change := trust.RootChange{RootThreshold: o.RootThreshold, Expires: o.Expires}
	if !o.KeepKeys {
		if out.Fresh, err = o.create(ctx, d, info); err != nil {
			return Result{}, err
		}
		change.RemoveRootKeys = info.KeyIDs
		for _, k := range out.Fresh {
			change.AddRootKeys = append(change.AddRootKeys, k.Public())
		}
	}
	if o.Keyset != nil {
		if out.Keyset, err = newKeysetKey(ctx, o, out.Version); err != nil {
			return Result{}, err
		}
		change.AddKeysetKeys, change.RemoveKeysetKeys = []sign.PublicKey{out.Keyset.key.Public()}, info.KeysetKeyIDs
		change.KeysetThreshold = 1
	}
	next, err := trust.RotateRoot(prev, change, slices.Concat(out.Old, out.Fresh)...)
	if err != nil {
		return Result{}, err
	}
	if out.Keyset != nil {
		if err := out.Keyset.install(prev, next, o.Keyset.Metadata); err != nil {
			return Result{}, err
		}
	}
	// The root comes last: a crash before it leaves a rotation that can be run again.
	if err := durable.WriteFile(durable.OS, out.File, next, 0o644); err != nil {
		return Result{}, fault.New(fault.CodeIO, "write the root metadata: %w", err)
	}
	return out, nil
}

// newest finds the newest root metadata.
func (o Options) newest() (string, error) {
	if o.From != "" {
		return o.From, nil
	}
	versions, err := hubdir.Roots(o.Dir)
	if err != nil {
		return "", err
	}
	best := uint64(0)
	if len(versions) > 0 {
		best = versions[len(versions)-1]
	}
	if best == 0 {
		return "", fault.New(fault.CodeConfig, "%s holds no root-N.json", o.Dir).WithRemedy("Save it with `meshctl trust show --save DIR` and name it with --from.")
	}
	return filepath.Join(o.Dir, hubdir.RootFile(best)), nil
}

// present opens the root keys in the directory that the root lists.
func present(ctx context.Context, d sign.Driver, dir string, info trust.RootInfo) ([]*sign.Signer, error) {
	names, err := hubdir.KeyNames(dir)
	if err != nil {
		return nil, err
	}
	var out []*sign.Signer
	for _, name := range names {
		k, err := sign.Open(ctx, d, name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(info.KeyIDs, k.KeyID()) {
			out = append(out, k)
		}
	}
	if len(out) < info.Threshold {
		return nil, fault.New(fault.CodeRootUnsigned, "%s holds %d of the root keys, and %d are needed", dir, len(out), info.Threshold).
			WithRemedy("Bring the missing root-*.key files together in %s.", dir)
	}
	return out, nil
}

// create makes the new root keys.
func (o Options) create(ctx context.Context, d sign.Driver, info trust.RootInfo) ([]*sign.Signer, error) {
	n := o.RootKeys
	if n == 0 {
		n = len(info.KeyIDs)
	}
	var out []*sign.Signer
	for i := range n {
		k, err := createOrOpen(ctx, d, fmt.Sprintf("root-v%d-%d", info.Version+1, i+1))
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// createOrOpen makes a key, or opens the one of a try that did not get further.
func createOrOpen(ctx context.Context, d sign.Driver, name string) (*sign.Signer, error) {
	k, err := sign.Create(ctx, d, name, sign.Ed25519)
	if fault.CodeOf(err) == fault.CodeKeyExists {
		k, err = sign.Open(ctx, d, name)
	}
	return k, err
}
