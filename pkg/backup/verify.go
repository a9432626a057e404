package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/trust"
)

// Check is what a backup is held against.
type Check struct {
	// Domain that it must be of; empty: any.
	Domain string
	// Roots is the root metadata that is trusted because of where it was kept, oldest
	// first; the first of them is the pin. Without any, only what the backup says of
	// itself is verified: that it is whole and its parts agree, not whose it is.
	Roots [][]byte
	// SkipFold leaves out comparing the state with what the entries fold into.
	SkipFold bool
}

// Verified is a backup that passed.
type Verified struct {
	Sealed
	// Backup is what was signed, SignedBy by whom.
	Backup   *trustv1.Backup
	SignedBy trust.HubKey
	// State is what the log folds into.
	State *state.State
	// Anchors are the trust metadata of that state, under the newest known root.
	Anchors *trust.Anchors
	// Pinned says that the chain was held against Check.Roots.
	Pinned bool
	// Folded says that the state was compared with what the entries fold into, which
	// takes the log from its first entry on.
	Folded bool
}

// Verify reads a whole backup and checks everything in it: the hash chain of its
// entries, that the state is what they fold into, that the trust metadata leads back
// to the pin, and that a key which the keyset lists signed every byte.
//
// CodeBackupDamaged, CodeBackupFormat, CodeBackupDomain, CodeBackupUntrusted.
func Verify(ctx context.Context, in io.Reader, c Check) (Verified, error) {
	r, err := NewReader(in)
	if err != nil {
		return Verified{}, err
	}
	h := r.Header()
	if c.Domain != "" && h.GetDomain() != c.Domain {
		return Verified{}, fault.New(fault.CodeBackupDomain, "the backup is of domain %q, not %q", h.GetDomain(), c.Domain)
	}
	fold := state.New()
	whole := h.GetTrimmed() == 0 && !c.SkipFold
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return Verified{}, err
		}
		if !whole {
			continue
		}
		if fold, _, err = fold.Apply(e.Entry, e.Hash); err != nil {
			return Verified{}, fault.New(fault.CodeBackupDamaged, "its entries cannot be applied: %w", err)
		}
	}
	sum := sha256.New()
	pieces := &snapshotReader{r: r}
	st, err := state.ReadSnapshot(io.TeeReader(pieces, sum))
	switch {
	case pieces.err != nil:
		return Verified{}, pieces.err
	case err != nil:
		return Verified{}, fault.New(fault.CodeBackupDamaged, "the state in the backup: %w", err)
	}
	v := Verified{State: st, Folded: whole}
	if v.Sealed, err = r.Seal(); err != nil {
		return Verified{}, err
	}
	pos := st.Position()
	switch {
	case st.Domain() != h.GetDomain(), pos.Seq != v.Head.Seq, pos.Term != v.Head.Term, pos.Hash != v.Head.Hash:
		return Verified{}, fault.New(fault.CodeBackupDamaged, "the state in the backup is of entry %d of domain %q, its log ends at entry %d of domain %q", pos.Seq, st.Domain(), v.Head.Seq, h.GetDomain())
	case whole && fold.Digest() != [32]byte(sum.Sum(nil)):
		return Verified{}, fault.New(fault.CodeBackupDamaged, "the state in the backup is not what its entries fold into")
	}
	return v, v.judge(h.GetHub(), c)
}

// judge decides whether the backup is believed.
func (v *Verified) judge(hub string, c Check) error {
	roots := v.State.Roots()
	if len(c.Roots) > 0 {
		if !slices.ContainsFunc(roots, func(r []byte) bool { return bytes.Equal(r, c.Roots[0]) }) {
			return fault.New(fault.CodeBackupUntrusted, "the backup's chain of roots does not hold the root that is trusted here")
		}
		v.Pinned = true
		// A newer one that is known counts: keys that it took away sign nothing.
		roots = append(slices.Clip(roots), c.Roots...)
	}
	m := &trustv1.Metadata{Roots: roots, Keyset: v.State.Keyset(), CaBundle: v.State.CABundle()}
	var err error
	if v.Anchors, err = trust.FromMetadata(v.State.Domain(), m); err != nil {
		refused := fault.New(fault.CodeBackupUntrusted, "the backup's trust metadata: %w", err)
		m.Roots = v.State.Roots()
		if then, terr := trust.FromMetadata(v.State.Domain(), m); terr == nil && v.Pinned {
			n := then.Root().Version
			return refused.WithRemedy("Use a backup that was made after the keyset key was replaced. This one was made under root version %[1]d, before that: if its file is surely yours, for whoever has the old key may have made it, name the root of its time with --root DIR/root/root-%[1]d.json.", n)
		}
		return refused
	}
	if v.Backup, v.SignedBy, err = v.Anchors.VerifyBackup(v.Envelope); err != nil {
		return fault.New(fault.CodeBackupUntrusted, "the backup's signature: %w", err)
	}
	b := v.Backup
	switch {
	case !bytes.Equal(b.GetSha256(), v.Sum[:]), b.GetBytes() != v.Bytes:
		return fault.New(fault.CodeBackupDamaged, "the backup's bytes are not those that hub %q signed", v.SignedBy.Hub)
	case b.GetHeadSeq() != v.Head.Seq, b.GetHeadTerm() != v.Head.Term, !bytes.Equal(b.GetHeadHash(), v.Head.Hash[:]),
		b.GetTrimmed() != v.Trimmed, b.GetEntries() != v.Entries, b.GetSnapshotBytes() != v.SnapshotBytes, b.GetHub() != hub:
		return fault.New(fault.CodeBackupDamaged, "the backup is not what hub %q signed it to be", v.SignedBy.Hub)
	}
	return nil
}

// String says in a line what the backup is.
func (v Verified) String() string {
	return fmt.Sprintf("domain %s up to entry %d of term %d, made %s by hub %s", v.State.Domain(), v.Head.Seq, v.Head.Term,
		v.Backup.GetCreatedAt().AsTime().UTC().Format("2006-01-02T15:04:05Z"), v.SignedBy.Hub)
}
