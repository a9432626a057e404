// Package keyring holds what a hub signs with and what it is believed by: its
// config key, and the domain's trust metadata as the log has it. It also makes
// the entries that change them: key rotation, dropping a hub, publishing metadata
// that was signed elsewhere, extending a keyset that is about to expire.
//
// A rotation never leaves a moment in which an agent refuses what the hub signs:
//
//  1. a keyset that lists the old and the new key is committed and sent;
//  2. the hub signs everything again with the new key;
//  3. a keyset without the old key is committed and sent.
//
// The keyset key may be on another hub than the one that leads. What is made with it
// here is then published through that one: it carries its own signature.
//
// A crash after 1 or 2 leaves both keys listed, which is safe; the next rotation
// drops all but its own. Key files are named "config", then "config-N" with the
// version of the keyset that first lists them.
//
// All methods are safe for concurrent use.
package keyring

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	logv1 "github.com/meshkit/meshkit/pkg/api/meshkit/log/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
)

// Names of keys in the hub's key directory.
const (
	ConfigKey = "config"
	KeysetKey = "keyset"
)

// Lifetimes of what the hub makes. A keyset is extended when less than KeysetRenew
// of its time is left; with less than KeysetOverdue, something keeps it from that.
const (
	KeysetLifetime = 365 * 24 * time.Hour
	KeysetRenew    = 120 * 24 * time.Hour
	KeysetOverdue  = 14 * 24 * time.Hour
	// RootDue is how long before its end people are told to make the next root: its keys
	// are offline.
	RootDue = 30 * 24 * time.Hour
)

// Proposer appends entries to the log; *replica.Replica is one.
type Proposer interface {
	Current() *replica.Current
	Leading() (term uint64, ok bool)
	Propose(ctx context.Context, f func(*replica.Current, time.Time) (replica.Proposal, error)) (store.Entry, error)
}

// Options of a keyring.
type Options struct {
	Domain string
	Hub    string
	// Keys holds the hub's private keys. The keyset key may be elsewhere: then the
	// hub cannot change the keyset by itself.
	Keys sign.Driver
	// Publish has the hub that leads publish metadata for c, the caller of ctx, and
	// returns when this hub has read it; nil: only the leader makes any.
	Publish func(ctx context.Context, m *trustv1.Metadata, c Caller, reason string) error
	Logger  *slog.Logger
}

// InForce is what holds at one moment. It is immutable.
type InForce struct {
	Anchors *trust.Anchors
	// Signer is nil when the keyset lists no key that this hub holds, or when that cannot
	// be used.
	Signer *sign.Signer
	// unusable is why a key of the hub cannot be used, when there is no Signer.
	unusable error
}

// Keyring is the hub's keys and trust metadata. Use New and Follow.
type Keyring struct {
	opt     Options
	current atomic.Pointer[InForce]
	rotate  sync.Mutex // serializes rotations

	mu     sync.Mutex // guards below, and stores to current
	keyset []byte
	roots  int
	seq    uint64 // of the state that was followed last

	dropMu  sync.Mutex // guards below
	asked   []byte     // the keyset that Dropped was asked about last
	dropped bool
}

// New makes a keyring that knows no metadata yet.
func New(opt Options) *Keyring {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keyring{opt: opt}
}

// Current is what is in force; nil before the first Follow.
func (k *Keyring) Current() *InForce { return k.current.Load() }

// Follow takes over the trust metadata of a state; changed tells whether it
// differs from before. A state that is older than one followed before changes
// nothing: callers come from several goroutines.
func (k *Keyring) Follow(ctx context.Context, s *state.State) (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.Seq() < k.seq {
		return false, nil
	}
	cur := k.current.Load()
	if cur != nil && k.roots == len(s.Roots()) && bytes.Equal(k.keyset, s.Keyset()) {
		return false, nil
	}
	anchors, err := Anchors(k.opt.Domain, s)
	if err != nil {
		return false, err
	}
	next := &InForce{Anchors: anchors}
	if cur != nil && k.lists(anchors, cur.Signer) {
		next.Signer = cur.Signer
	} else {
		next.Signer, next.unusable = k.find(ctx, anchors)
	}
	k.current.Store(next)
	switch was := cur == nil || cur.Signer != nil; {
	case was && next.unusable != nil:
		k.opt.Logger.Error("the hub cannot sign: its config key cannot be used", "keyset", anchors.KeysetVersion(), "err", next.unusable)
	case was && next.Signer == nil:
		k.opt.Logger.Error("the hub cannot sign: the keyset lists no key that it holds; it was dropped, or another has its place", "keyset", anchors.KeysetVersion())
	case !was && next.Signer != nil:
		k.opt.Logger.Info("the hub can sign again", "keyset", anchors.KeysetVersion(), "key", next.Signer.KeyID())
	}
	k.keyset, k.roots, k.seq = s.Keyset(), len(s.Roots()), s.Seq()
	return true, nil
}

// Anchors verifies the trust metadata of a state.
func Anchors(domain string, s *state.State) (*trust.Anchors, error) {
	return trust.FromMetadata(domain, &trustv1.Metadata{Roots: s.Roots(), Keyset: s.Keyset(), CaBundle: s.CABundle()})
}

// Dropped tells whether a state's keyset lists no key that this hub holds: it was
// dropped, or another has taken its place. It may be asked often.
func (k *Keyring) Dropped(s *state.State) bool {
	k.dropMu.Lock()
	defer k.dropMu.Unlock()
	if k.asked == nil || !bytes.Equal(k.asked, s.Keyset()) {
		anchors, err := Anchors(k.opt.Domain, s)
		k.asked, k.dropped = s.Keyset(), false
		if err == nil {
			signer, _ := k.find(context.Background(), anchors)
			k.dropped = signer == nil
		}
	}
	return k.dropped
}

func (k *Keyring) lists(a *trust.Anchors, s *sign.Signer) bool {
	return s != nil && slices.Contains(k.own(a), s.KeyID())
}

// own lists the ids of this hub's keys.
func (k *Keyring) own(a *trust.Anchors) []string {
	var ids []string
	for _, h := range a.Hubs() {
		if h.Hub == k.opt.Hub {
			ids = append(ids, h.KeyID)
		}
	}
	return ids
}

// find opens the newest of the hub's keys that the keyset lists; nil when there is
// none. The error says then why one that is there cannot be used.
func (k *Keyring) find(ctx context.Context, a *trust.Anchors) (_ *sign.Signer, unusable error) {
	if len(k.own(a)) == 0 {
		return nil, nil
	}
	for v := a.KeysetVersion(); v > 0; v-- {
		name := rotatedName(v)
		if v == 1 {
			name = ConfigKey
		}
		s, err := sign.Open(ctx, k.opt.Keys, name)
		if err == nil && k.lists(a, s) {
			return s, nil
		}
		if err != nil && unusable == nil && fault.CodeOf(err) != fault.CodeKeyNotFound {
			unusable = err
		}
	}
	return nil, unusable
}

func rotatedName(keysetVersion uint64) string { return fmt.Sprintf("%s-%d", ConfigKey, keysetVersion) }

// Signer gives the key to sign with.
func (k *Keyring) Signer() (*sign.Signer, *trust.Anchors, error) {
	cur := k.current.Load()
	if cur != nil && cur.unusable != nil {
		return nil, nil, fault.New(fault.CodeSigningStopped, "hub %s cannot use its config key: %w", k.opt.Hub, cur.unusable).
			WithRemedy("%s Then restart the hub.", fault.RemedyOf(cur.unusable))
	}
	if cur == nil || cur.Signer == nil {
		return nil, nil, fault.New(fault.CodeSigningStopped, "the keyset lists no key that hub %s holds", k.opt.Hub)
	}
	return cur.Signer, cur.Anchors, nil
}

// Health tells why the hub cannot sign, or what has expired; nil when all is well.
func (k *Keyring) Health(now time.Time) error {
	if _, _, err := k.Signer(); err != nil {
		return err
	}
	anchors := k.current.Load().Anchors
	if err := anchors.Expired(now); err != nil {
		return err
	}
	if end := anchors.KeysetExpires(); end.Sub(now) < KeysetOverdue {
		return fault.New(fault.CodeKeysetEnding, "the keyset expires at %s, and the hub that holds its key has not extended it", end.UTC().Format(time.RFC3339))
	}
	if end := anchors.Root().Expires; end.Sub(now) < RootDue {
		return fault.New(fault.CodeRootEnding, "root version %d expires at %s", anchors.RootVersion(), end.UTC().Format(time.RFC3339))
	}
	return nil
}

// Caller is who asked for a change, for the log.
type Caller struct {
	Author, Origin, RequestID, Traceparent string
	Fingerprint                            []byte
}

// committed tells whether the log has the caller's request already.
func (c Caller) committed(st *state.State) (bool, error) {
	if c.RequestID == "" {
		return false, nil
	}
	done, ok := st.Request(c.RequestID)
	if ok && !bytes.Equal(done.GetFingerprint(), c.Fingerprint) {
		return false, fault.New(fault.CodeRequestIDReused, "request id %q was used for another request, committed as entry %d", c.RequestID, done.GetSeq())
	}
	return ok, nil
}

// errReplayed says that the log has the request already.
var errReplayed = errors.New("request was committed before")

// change edits the keyset through the log. edit sees the anchors that the entry
// will follow.
func (k *Keyring) change(ctx context.Context, p Proposer, c Caller, reason string, edit func(*trust.Anchors, time.Time) (*trustv1.Metadata, error)) error {
	_, err := p.Propose(ctx, func(cur *replica.Current, now time.Time) (replica.Proposal, error) {
		if done, err := c.committed(cur.State); err != nil || done {
			return replica.Proposal{}, cmp.Or(err, errReplayed)
		}
		anchors, err := Anchors(k.opt.Domain, cur.State)
		if err != nil {
			return replica.Proposal{}, err
		}
		m, err := edit(anchors, now)
		if err != nil {
			return replica.Proposal{}, err
		}
		next, err := anchors.Update(m, now)
		if err != nil {
			return replica.Proposal{}, err
		}
		added := next.Metadata(anchors.RootVersion(), anchors.KeysetVersion())
		if added == nil {
			return replica.Proposal{}, errNothingNew
		}
		payload := &logv1.TrustUpdated{Roots: added.GetRoots(), Keyset: added.GetKeyset(), CaBundle: added.GetCaBundle(), Reason: reason, Fingerprint: c.Fingerprint}
		return replica.Proposal{Kind: state.KindTrustUpdated, Payload: payload, Author: c.Author, Origin: c.Origin, RequestID: c.RequestID, Traceparent: c.Traceparent}, nil
	})
	if err != nil && !errors.Is(err, errReplayed) {
		return err
	}
	_, err = k.Follow(ctx, p.Current().State)
	return err
}

// amend edits the keyset as change does, on a hub that may not lead.
func (k *Keyring) amend(ctx context.Context, p Proposer, c Caller, reason string, edit func(*trust.Anchors, time.Time) (*trustv1.Metadata, error)) error {
	if _, leading := p.Leading(); leading || k.opt.Publish == nil {
		return k.change(ctx, p, c, reason, edit)
	}
	anchors, err := Anchors(k.opt.Domain, p.Current().State)
	if err != nil {
		return err
	}
	m, err := edit(anchors, time.Now())
	if err != nil {
		return err
	}
	if err := k.opt.Publish(ctx, m, c, reason); err != nil && !bytes.Equal(p.Current().State.Keyset(), m.GetKeyset()) {
		return err
	} // done all the same if the leader did it and resigned before it answered, dropped by this
	_, err = k.Follow(ctx, p.Current().State)
	return err
}

var errNothingNew = fault.New(fault.CodeBadRequest, "the metadata brings nothing new")

// edit makes the next keyset with the keyset key of this hub.
func (k *Keyring) edit(ctx context.Context, a *trust.Anchors, e trust.KeysetEdit) (*trustv1.Metadata, error) {
	signer, err := sign.Open(ctx, k.opt.Keys, KeysetKey)
	if err != nil {
		return nil, fault.New(fault.CodeKeysetKeyMissing, "open the keyset key: %w", err)
	}
	keyset, err := trust.EditKeyset(a.KeysetBytes(), e, signer)
	if err != nil {
		return nil, err
	}
	return &trustv1.Metadata{Keyset: keyset, CaBundle: a.CABundle()}, nil
}

// Rotate gives the hub a new config key. resign must sign everything that is
// published again, with Signer, before it returns.
func (k *Keyring) Rotate(ctx context.Context, p Proposer, c Caller, resign func(context.Context) error) (*adminv1.RotateHubKeyResponse, error) {
	k.rotate.Lock()
	defer k.rotate.Unlock()
	cur := k.Current()
	if cur == nil {
		return nil, fault.New(fault.CodeHubStarting, "the hub has not read its log yet")
	}
	if done, err := k.rotated(p, c); done != nil || err != nil {
		return done, err // by another call with the same request id
	}
	out := &adminv1.RotateHubKeyResponse{Hub: k.opt.Hub}
	if cur.Signer != nil {
		out.OldKeyId = cur.Signer.KeyID()
	}
	fresh, err := k.create(ctx, cur.Anchors.KeysetVersion()+1)
	if err != nil {
		return nil, err
	}
	out.NewKeyId = fresh.KeyID()
	step := c
	step.RequestID, step.Fingerprint = "", nil // the last step answers for the request
	err = k.amend(ctx, p, step, "rotate the config key of hub "+k.opt.Hub, func(a *trust.Anchors, now time.Time) (*trustv1.Metadata, error) {
		return k.edit(ctx, a, trust.KeysetEdit{Add: map[string][]sign.PublicKey{k.opt.Hub: {fresh.Public()}}, Expires: expiry(a, now)})
	})
	if err != nil {
		return nil, err
	}
	k.use(fresh)
	if err := resign(ctx); err != nil {
		return nil, fmt.Errorf("sign with the new key: %w", err)
	}
	err = k.amend(ctx, p, c, "retire the old config key of hub "+k.opt.Hub, func(a *trust.Anchors, now time.Time) (*trustv1.Metadata, error) {
		drop := slices.DeleteFunc(k.own(a), func(id string) bool { return id == fresh.KeyID() })
		return k.edit(ctx, a, trust.KeysetEdit{DropKeys: drop, Expires: expiry(a, now)})
	})
	if err != nil {
		return nil, err
	}
	out.KeysetVersion = k.Current().Anchors.KeysetVersion()
	k.opt.Logger.Info("config key rotated", "old", out.OldKeyId, "new", out.NewKeyId, "keyset", out.KeysetVersion)
	return out, nil
}

// rotated is the answer to a rotation that was done before; nil if it was not.
func (k *Keyring) rotated(p Proposer, c Caller) (*adminv1.RotateHubKeyResponse, error) {
	if done, err := c.committed(p.Current().State); err != nil || !done {
		return nil, err
	}
	signer, anchors, err := k.Signer()
	if err != nil {
		return nil, err
	}
	return &adminv1.RotateHubKeyResponse{Hub: k.opt.Hub, NewKeyId: signer.KeyID(), KeysetVersion: anchors.KeysetVersion()}, nil
}

// create makes the key for a keyset version, or finds the one that a rotation
// made which did not get further.
func (k *Keyring) create(ctx context.Context, keysetVersion uint64) (*sign.Signer, error) {
	s, err := sign.Create(ctx, k.opt.Keys, rotatedName(keysetVersion), sign.Ed25519)
	if fault.CodeOf(err) == fault.CodeKeyExists {
		return sign.Open(ctx, k.opt.Keys, rotatedName(keysetVersion))
	}
	return s, err
}

// use makes s the signing key.
func (k *Keyring) use(s *sign.Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := *k.current.Load()
	next.Signer = s
	k.current.Store(&next)
}

// expiry extends a keyset that is being changed anyway; it never shortens it.
func expiry(a *trust.Anchors, now time.Time) time.Time {
	if t := now.Add(KeysetLifetime); t.After(a.KeysetExpires()) {
		return t
	}
	return a.KeysetExpires()
}

// DropHub removes all keys of a hub from the keyset: agents refuse what it signs
// from then on.
func (k *Keyring) DropHub(ctx context.Context, p Proposer, c Caller, hub, reason string) (keysetVersion uint64, err error) {
	if hub == k.opt.Hub {
		return 0, fault.New(fault.CodeOwnKey, "hub %s is the one that answers", hub)
	}
	err = k.amend(ctx, p, c, reason, func(a *trust.Anchors, now time.Time) (*trustv1.Metadata, error) {
		if !slices.ContainsFunc(a.Hubs(), func(h trust.HubKey) bool { return h.Hub == hub }) {
			return nil, fault.New(fault.CodeNoSuchHub, "the keyset lists no key for hub %q", hub)
		}
		return k.edit(ctx, a, trust.KeysetEdit{DropHubs: []string{hub}, Expires: expiry(a, now)})
	})
	if err != nil {
		return 0, err
	}
	return k.Current().Anchors.KeysetVersion(), nil
}

// WithHub makes the keyset that follows a state's, with a key of another hub in
// place of those that it had. The caller commits it.
func (k *Keyring) WithHub(ctx context.Context, st *state.State, hub string, key sign.PublicKey, now time.Time) (keyset, caBundle []byte, err error) {
	if hub == k.opt.Hub {
		return nil, nil, fault.New(fault.CodeOwnKey, "hub %s is the one that answers", hub)
	}
	anchors, err := Anchors(k.opt.Domain, st)
	if err != nil {
		return nil, nil, err
	}
	edit := placeFor(anchors, hub, key)
	edit.Expires = expiry(anchors, now)
	m, err := k.edit(ctx, anchors, edit)
	if err != nil {
		return nil, nil, err
	}
	// What agents would refuse must not get into the log.
	if _, err := anchors.Update(m, now); err != nil {
		return nil, nil, err
	}
	return m.GetKeyset(), m.GetCaBundle(), nil
}

// CheckWithHub checks what WithHub made on another hub against a state: the keyset
// follows the state's under the domain's root, and says nothing new but the hub's key
// and its own end. CodeKeysetMoved: it follows an earlier one.
func (k *Keyring) CheckWithHub(st *state.State, hub string, key sign.PublicKey, keyset, caBundle []byte, now time.Time) error {
	anchors, err := Anchors(k.opt.Domain, st)
	if err != nil {
		return err
	}
	next, err := anchors.Update(&trustv1.Metadata{Keyset: keyset, CaBundle: caBundle}, now)
	switch {
	case errors.Is(err, fault.CodeKeysetRollback), err == nil && next == anchors:
		return fault.New(fault.CodeKeysetMoved, "the keyset that is to list hub %s does not follow version %d, which is in force", hub, anchors.KeysetVersion())
	case err != nil:
		return err
	}
	if err := trust.CheckEdit(anchors.KeysetBytes(), keyset, placeFor(anchors, hub, key)); err != nil {
		return fault.New(fault.CodeJoinRefused, "the keyset that is to list hub %s: %w", hub, err)
	}
	return nil
}

// placeFor lists a key of a hub in place of those that it had. The hub may come back to
// its own place with the key that it has: the answer to its join was lost.
func placeFor(a *trust.Anchors, hub string, key sign.PublicKey) trust.KeysetEdit {
	edit := trust.KeysetEdit{Add: map[string][]sign.PublicKey{hub: {key}}}
	for _, h := range a.Hubs() {
		switch {
		case h.Hub != hub:
		case h.KeyID == key.KeyID():
			edit.Add = nil
		default:
			edit.DropKeys = append(edit.DropKeys, h.KeyID)
		}
	}
	return edit
}

// Publish installs metadata that was signed elsewhere.
func (k *Keyring) Publish(ctx context.Context, p Proposer, c Caller, m *trustv1.Metadata, reason string) (*trust.Anchors, error) {
	err := k.change(ctx, p, c, reason, func(*trust.Anchors, time.Time) (*trustv1.Metadata, error) { return m, nil })
	if err != nil {
		return nil, err
	}
	return k.Current().Anchors, nil
}

// Extend renews a keyset that is about to expire; it does nothing otherwise.
func (k *Keyring) Extend(ctx context.Context, p Proposer, now time.Time) error {
	cur := k.Current()
	if cur == nil || cur.Anchors.KeysetExpires().Sub(now) > KeysetRenew {
		return nil
	}
	return k.amend(ctx, p, Caller{}, "extend the keyset", func(a *trust.Anchors, now time.Time) (*trustv1.Metadata, error) {
		return k.edit(ctx, a, trust.KeysetEdit{Expires: now.Add(KeysetLifetime)})
	})
}
