package founding_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/credentials"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/hubtest"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/store/memstore"
	"github.com/meshkit/meshkit/pkg/store/storetest"
	"github.com/meshkit/meshkit/pkg/trust"
)

// drivers are in memory; before is called before each of their calls, if set.
type drivers struct {
	log    *memstore.Server
	keys   map[string]*hubtest.Keys // by directory
	before func() error
}

func newDrivers() *drivers {
	return &drivers{log: memstore.New(memstore.Options{}), keys: make(map[string]*hubtest.Keys), before: func() error { return nil }}
}

func (d *drivers) options(dir string) founding.Options {
	return founding.Options{
		Domain: "eu-west", Hub: "hub1", Dir: dir, Listen: "0.0.0.0:8443", Address: "Hub1.example:8443", RootKeys: 3, RootThreshold: 2, Config: []byte("domain: eu-west\n"),
		Drivers: founding.Drivers{
			Keys: func(dir string) (sign.Driver, error) {
				if d.keys[dir] == nil {
					d.keys[dir] = hubtest.NewKeys()
				}
				return d.keys[dir], d.before()
			},
			CA: func(issuer *x509.Certificate, key crypto.Signer) (ca.Driver, error) {
				return hubtest.CA(issuer, key), d.before()
			},
			OpenLog: func(ctx context.Context) (*store.Log, error) {
				if err := d.before(); err != nil {
					return nil, err
				}
				return store.Open(ctx, d.log.Driver(), store.Options{})
			},
			Store: "memory",
		},
	}
}

// copied copies a directory, as a kill would leave it, with its keys.
func (d *drivers) copied(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Error(err)
	}
	for dir, keys := range d.keys {
		if rel, ok := strings.CutPrefix(dir, from+string(filepath.Separator)); ok {
			d.keys[filepath.Join(to, rel)] = keys
		}
	}
}

// cutShort are the options of an init that was killed before its log had anything.
func (d *drivers) cutShort(t *testing.T) founding.Options {
	t.Helper()
	cut := filepath.Join(t.TempDir(), "cut")
	o := d.options(filepath.Join(t.TempDir(), "hub"))
	o.OpenLog = func(ctx context.Context) (*store.Log, error) {
		d.copied(t, o.Dir, cut)
		return store.Open(ctx, memstore.New(memstore.Options{}).Driver(), store.Options{})
	}
	if _, err := founding.Found(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return d.options(cut)
}

// entries are what the log has.
func (d *drivers) entries(t *testing.T) []store.Entry {
	t.Helper()
	l, err := store.Open(t.Context(), d.log.Driver(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	entries, err := l.Read(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestADomainIsMadeWithAllThatItsFirstHubNeeds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	d := newDrivers()
	pin, err := founding.Found(t.Context(), d.options(dir))
	if err != nil {
		t.Fatal(err)
	}
	hub, err := mtls.LoadFiles(mtls.Files{Cert: filepath.Join(dir, "tls", "hub.pem"), Key: filepath.Join(dir, "tls", "hub.key"), CA: filepath.Join(dir, "ca", "root.pem")})
	if err != nil || hub.ID().String() != "spiffe://eu-west/hub/hub1" {
		t.Fatalf("the hub's certificate is %v (%v)", hub, err)
	}
	leaf, err := x509.ParseCertificate(hub.Certificate().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	var ips []string
	for _, ip := range leaf.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		ips = append(ips, a.Unmap().String())
	}
	if !slices.Equal(leaf.DNSNames, []string{"localhost", "eu-west", "hub1.example"}) || !slices.Equal(ips, []string{"127.0.0.1"}) {
		t.Errorf("it names %v and %v", leaf.DNSNames, ips)
	}
	operator, err := mtls.LoadFiles(credentials.OperatorFiles(filepath.Join(dir, "admin"), "admin"))
	if err != nil || operator.ID().String() != "spiffe://eu-west/operator/admin" {
		t.Errorf("the operator's certificate is %v (%v)", operator, err)
	}
	context, err := os.ReadFile(credentials.ContextFile(filepath.Join(dir, "admin")))
	if err != nil || !strings.Contains(string(context), `hub: "Hub1.example:8443"`) {
		t.Errorf("the context is %s (%v)", context, err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root", hubdir.RootFile(1)))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := trust.InspectRoot(root); err != nil || len(info.KeyIDs) != 3 || info.Threshold != 2 {
		t.Errorf("the root is %+v (%v)", info, err)
	}
	if entries := d.entries(t); len(entries) != 1 || entries[0].Kind != state.KindDomainCreated {
		t.Errorf("the log has %v", entries)
	}
	bundle, err := os.ReadFile(filepath.Join(dir, "ca", "root.pem"))
	if err != nil || !strings.HasPrefix(pin, "sha256:") || len(bundle) == 0 {
		t.Errorf("pin %s of %d bytes (%v)", pin, len(bundle), err)
	}
	if stage, got, err := founding.Inspect(dir); got != nil || stage != hubdir.Complete || err != nil {
		t.Errorf("a domain that init made is at stage %d, with maker %+v (%v)", stage, got, err)
	}
}

// A domain that an operator of another one has made gives no key away.
func TestADomainThatWasAskedForKeepsItsMakerAndNoOperator(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	who := founding.Maker{RequestID: "r1", Author: "spiffe://eu-west/operator/ann", Key: "00ff"}
	o := newDrivers().options(dir)
	o.Maker = &who
	if _, err := founding.Found(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if stage, got, err := founding.Inspect(dir); err != nil || stage != hubdir.Complete || *got != who {
		t.Errorf("made by %+v, stage %d (%v)", got, stage, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "admin")); !os.IsNotExist(err) {
		t.Errorf("an operator's credentials are there (%v)", err)
	}
	if err := os.Remove(filepath.Join(dir, hubdir.ConfigFile)); err != nil {
		t.Fatal(err)
	}
	if stage, got, err := founding.Inspect(dir); err != nil || stage != hubdir.CutShort || *got != who {
		t.Errorf("cut short, made by %+v, stage %d (%v)", got, stage, err)
	}
}

// The first entry of a log in a shared store cannot be taken back: with the keys gone,
// nobody could ever lead the domain, and its name would be lost.
func TestADomainThatWasCutShortAfterItsFirstEntryIsGoneOnWith(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	d := newDrivers()
	o := d.options(dir)
	o.Maker = &founding.Maker{RequestID: "r1", Author: "spiffe://eu-west/operator/ann", Key: "00ff"}
	pin, err := founding.Found(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, hubdir.ConfigFile)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	other := o
	other.Maker = &founding.Maker{RequestID: "r2"}
	if _, err := founding.Found(t.Context(), other); fault.CodeOf(err) != fault.CodeDomainExists {
		t.Errorf("another request: %v", err)
	}
	if err := os.Remove(config); err != nil { // the other request has ended what was cut short
		t.Fatal(err)
	}
	again, err := founding.Found(t.Context(), o)
	if err != nil || again != pin {
		t.Fatalf("pin %s, want %s (%v)", again, pin, err)
	}
	if got, err := os.ReadFile(config); err != nil || !slices.Equal(got, text) {
		t.Errorf("the configuration is %s (%v)", got, err)
	}
	if n := len(d.entries(t)); n != 1 {
		t.Errorf("the log has %d entries", n)
	}
}

// The end of the caller's context while the first entry is on its way takes nothing back.
func TestAnInterruptionWhileTheFirstEntryIsWrittenTakesNothingBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	d := newDrivers()
	o := d.options(dir)
	ctx, cancel := context.WithCancel(t.Context())
	o.OpenLog = func(context.Context) (*store.Log, error) {
		return store.Open(t.Context(), &storetest.Faults{Driver: d.log.Driver(), OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
			cancel()
			return next()
		}}, store.Options{})
	}
	if _, err := founding.Found(ctx, o); err != nil {
		t.Fatal(err)
	}
	if n := len(d.entries(t)); n != 1 {
		t.Errorf("the log has %d entries", n)
	}
}

// Whichever call of a driver fails, or is the last before an interruption: the
// directory is as it was.
func TestWhatFailsIsTakenBack(t *testing.T) {
	var calls int
	count := newDrivers()
	count.before = func() error { calls++; return nil }
	if _, err := founding.Found(t.Context(), count.options(filepath.Join(t.TempDir(), "hub"))); err != nil {
		t.Fatal(err)
	}
	if calls < 10 {
		t.Fatalf("%d calls of drivers", calls)
	}
	broken := errors.New("broken")
	for fails := range calls {
		for _, interrupted := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			there, absent := t.TempDir(), filepath.Join(t.TempDir(), "hub")
			for _, dir := range []string{there, absent} {
				d, n := newDrivers(), 0
				d.before = func() error {
					if n++; n <= fails {
						return nil
					}
					if interrupted {
						cancel()
						return nil
					}
					return broken
				}
				_, err := founding.Found(ctx, d.options(dir))
				switch {
				case interrupted && err == nil, !interrupted && !errors.Is(err, broken):
					t.Errorf("call %d, interrupted %t: %v", fails, interrupted, err)
				case interrupted && dir == absent && fault.CodeOf(err) != fault.CodeCanceled:
					t.Errorf("interrupted before it began: %v", err)
				}
			}
			cancel()
			if entries, err := os.ReadDir(there); err != nil || len(entries) > 0 {
				t.Errorf("call %d, interrupted %t: %v is left (%v)", fails, interrupted, entries, err)
			}
			if _, err := os.Stat(absent); !os.IsNotExist(err) {
				t.Errorf("call %d, interrupted %t: the directory is left (%v)", fails, interrupted, err)
			}
		}
	}
}

func TestALogThatIsInUseIsNoNewDomain(t *testing.T) {
	d := newDrivers()
	if _, err := founding.Found(t.Context(), d.options(filepath.Join(t.TempDir(), "hub"))); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "hub2")
	_, err := founding.Found(t.Context(), d.options(dir))
	if fault.CodeOf(err) != fault.CodeInitNotEmpty || !strings.Contains(err.Error(), "store memory") {
		t.Errorf("made again: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left (%v)", err)
	}
	if n := len(d.entries(t)); n != 1 {
		t.Errorf("the log has %d entries", n)
	}
}

// asked are the options of a domain that a request asks for, in a log whose appends end
// with what after says.
func (d *drivers) asked(dir, request string, after func() error) founding.Options {
	o := d.options(dir)
	o.Maker = &founding.Maker{RequestID: request, Author: "spiffe://eu-west/operator/ann", Key: "00ff"}
	o.OpenLog = func(ctx context.Context) (*store.Log, error) {
		return store.Open(ctx, &storetest.Faults{Driver: d.log.Driver(), OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
			if err := next(); err != nil {
				return err
			}
			return after()
		}}, store.Options{})
	}
	return o
}

// Who asks may leave at the very moment at which the log gets its first entry, and the
// answer of the store may be lost: the keys stay, and the directory becomes a hub.
func TestTheFirstEntryKeepsItsKeys(t *testing.T) {
	for name, lost := range map[string]error{"who asked left": nil, "the answer was lost": fault.New(fault.CodeWriteUnknown, "no answer")} {
		ctx, cancel := context.WithCancel(t.Context())
		dir := filepath.Join(t.TempDir(), "hub")
		d, n := newDrivers(), 0
		o := d.asked(dir, "r1", func() error {
			if cancel(); n > 0 {
				return nil
			}
			n++
			return lost
		})
		if _, err := founding.Found(ctx, o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if stage, _, err := founding.Inspect(dir); stage != hubdir.Complete || err != nil || len(d.entries(t)) != 1 {
			t.Errorf("%s: stage %d (%v), and the log has %d entries", name, stage, err, len(d.entries(t)))
		}
	}
}

// killed makes a domain up to the configuration, which is what a kill leaves.
func killed(t *testing.T, o founding.Options) {
	t.Helper()
	if _, err := founding.Found(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(o.Dir, hubdir.ConfigFile)); err != nil {
		t.Fatal(err)
	}
}

func TestADomainThatWasCutShortIsGoneOnWith(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	d := newDrivers()
	done := func() error { return nil }
	o, other := d.asked(dir, "r1", done), d.asked(dir, "r2", done)

	// In the log: the same request goes on, another finds the domain made.
	killed(t, o)
	if pin, err := founding.Found(t.Context(), o); err != nil || !strings.HasPrefix(pin, "sha256:") {
		t.Fatalf("the same request: pin %s (%v)", pin, err)
	}
	cut := func() {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, hubdir.ConfigFile)); err != nil {
			t.Fatal(err)
		}
	}
	cut()
	if _, err := founding.Found(t.Context(), other); fault.CodeOf(err) != fault.CodeDomainExists {
		t.Errorf("another request: %v", err)
	}
	if stage, m, err := founding.Inspect(dir); stage != hubdir.Complete || err != nil || m.RequestID != "r1" {
		t.Errorf("after another request: made by %v, stage %d (%v)", m, stage, err)
	}
	cut()
	atStart := o
	atStart.Maker = nil // whoever that was
	if done, err := founding.GoOn(t.Context(), atStart); !done || err != nil {
		t.Errorf("at a start: done %t (%v)", done, err)
	}
	if stage, m, err := founding.Inspect(dir); stage != hubdir.Complete || err != nil || m == nil || m.RequestID != "r1" {
		t.Errorf("after a start: made by %v, stage %d (%v)", m, stage, err)
	}
	if len(d.entries(t)) != 1 {
		t.Errorf("the log has %d entries", len(d.entries(t)))
	}

	// Not in the log: a start leaves it, and another request takes its place.
	cut()
	d.log = memstore.New(memstore.Options{})
	if done, err := founding.GoOn(t.Context(), o); done || err != nil {
		t.Errorf("at a start, with an empty log: done %t (%v)", done, err)
	}
	d.keys = make(map[string]*hubtest.Keys) // which go with the directory
	if _, err := founding.Found(t.Context(), other); err != nil {
		t.Errorf("another request, with an empty log: %v", err)
	}

	// Another hub's log: the directory is of no use.
	cut()
	d.log = memstore.New(memstore.Options{})
	if _, err := founding.Found(t.Context(), d.asked(filepath.Join(t.TempDir(), "elsewhere"), "r3", done)); err != nil {
		t.Fatal(err)
	}
	if _, err := founding.Found(t.Context(), other); fault.CodeOf(err) != fault.CodeInitNotEmpty {
		t.Errorf("in another's log: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left (%v)", err)
	}
}

// An init that was killed is gone on with by the same command, whether or not its first
// entry is in the log; another command takes nothing from it.
func TestAnInitThatWasCutShortIsGoneOnWith(t *testing.T) {
	for _, begun := range []bool{false, true} {
		d := newDrivers()
		cut := filepath.Join(t.TempDir(), "cut")
		o := d.options(filepath.Join(t.TempDir(), "hub"))
		log := d.log
		if !begun {
			log = memstore.New(memstore.Options{}) // what it writes is lost
		}
		o.OpenLog = func(ctx context.Context) (*store.Log, error) {
			return store.Open(ctx, &storetest.Faults{Driver: log.Driver(), OnAppend: func(_ context.Context, _ store.Batch, next func() error) error {
				defer d.copied(t, o.Dir, cut)
				return next()
			}}, store.Options{})
		}
		pin, err := founding.Found(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(o.Dir, hubdir.MakerFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("made.json is left (%v)", err)
		}
		other := d.options(cut)
		other.Listen = "127.0.0.1:1"
		if _, err := founding.Found(t.Context(), other); fault.CodeOf(err) != fault.CodeInitIncomplete || !strings.Contains(fault.RemedyOf(err), "same flags") {
			t.Errorf("begun %t, with other flags: %v (%s)", begun, err, fault.RemedyOf(err))
		}
		if again, err := founding.Found(t.Context(), d.options(cut)); err != nil || again != pin {
			t.Errorf("begun %t: pin %s, want %s (%v)", begun, again, pin, err)
		}
		if n := len(d.entries(t)); n != 1 {
			t.Errorf("begun %t: the log has %d entries", begun, n)
		}
		if _, err := founding.Found(t.Context(), d.options(cut)); fault.CodeOf(err) != fault.CodeInitNotEmpty {
			t.Errorf("begun %t, once more: %v", begun, err)
		}
	}
}

// What a person has made stays when another domain has taken the log.
func TestAnInitThatCameTooLateKeepsItsDirectory(t *testing.T) {
	d := newDrivers()
	cut := d.cutShort(t).Dir
	if _, err := founding.Found(t.Context(), d.options(filepath.Join(t.TempDir(), "hub2"))); err != nil {
		t.Fatal(err)
	}
	_, err := founding.Found(t.Context(), d.options(cut))
	if fault.CodeOf(err) != fault.CodeInitNotEmpty || !strings.Contains(fault.RemedyOf(err), "Move "+cut+" away") {
		t.Errorf("%v (%s)", err, fault.RemedyOf(err))
	}
	if _, err := os.Stat(filepath.Join(cut, "ca")); err != nil {
		t.Errorf("the keys are gone: %v", err)
	}
}

// Of a domain that is in the log, the directory has the only keys: no trouble with the
// store takes them away.
func TestAStoreThatCannotBeReadTakesNoKeysAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	d := newDrivers()
	o := d.asked(dir, "r1", func() error { return nil })
	killed(t, o)
	reads := 0
	o.OpenLog = func(ctx context.Context) (*store.Log, error) {
		return store.Open(ctx, &storetest.Faults{Driver: d.log.Driver(), OnRead: func(_ context.Context, after uint64, limit int, next func() (store.Page, error)) (store.Page, error) {
			if after == 0 && limit == 1 {
				if reads++; reads == 1 {
					return store.Page{}, fault.New(fault.CodeStoreUnavailable, "a moment's trouble")
				}
			}
			return next()
		}}, store.Options{})
	}
	if _, err := founding.Found(t.Context(), o); err != nil {
		t.Errorf("after a moment's trouble: %v", err)
	}
	if stage, _, err := founding.Inspect(dir); stage != hubdir.Complete || err != nil || reads < 2 {
		t.Errorf("stage %d after %d reads (%v)", stage, reads, err)
	}
}

// A domain that nobody could lead does not begin.
func TestWhatHasLostItsKeysIsNotGoneOnWith(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	d := newDrivers()
	o := d.asked(dir, "r1", func() error { return nil })
	killed(t, o)
	d.log = memstore.New(memstore.Options{})
	delete(d.keys, filepath.Join(dir, "keys"))
	if _, err := founding.Found(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is not whole") {
		t.Errorf("%v", err)
	}
	if n := len(d.entries(t)); n != 0 {
		t.Errorf("the log has %d entries", n)
	}
}

// An error without a code, as a store may give in the moment of an interruption, must not
// take the program down, nor hide how to go on.
func TestAnInitThatCannotGoOnSaysHow(t *testing.T) {
	d := newDrivers()
	o := d.cutShort(t)
	o.OpenLog = func(context.Context) (*store.Log, error) { return nil, errors.New("the outcome is not known") }
	if _, err := founding.Found(t.Context(), o); err == nil || !strings.Contains(fault.RemedyOf(err), "Repeat the command") {
		t.Errorf("%v; fix: %s", err, fault.RemedyOf(err))
	}
	if stage, _, err := founding.Inspect(o.Dir); stage != hubdir.CutShort || err != nil {
		t.Errorf("it is at stage %d (%v)", stage, err)
	}
}

// What only people can remove is told at once: no repetition helps.
func TestAnInitDoesNotWaitForAnAlarmToGoAway(t *testing.T) {
	d := newDrivers()
	o := d.cutShort(t)
	synctest.Test(t, func(t *testing.T) {
		o.OpenLog = func(ctx context.Context) (*store.Log, error) {
			l, err := store.Open(ctx, d.log.Driver(), store.Options{})
			if err == nil {
				err = l.RaiseAlarm(ctx, store.Mark{Hub: "hub1", Seq: 7, Term: 3, Hash: strings.Repeat("00", 32)})
			}
			return l, err
		}
		began := time.Now() // of the bubble, in which only waiting takes time
		_, err := founding.Found(t.Context(), o)
		if fault.CodeOf(err) != fault.CodeStoreRemains || strings.Contains(fault.RemedyOf(err), "Repeat") {
			t.Errorf("%v; fix: %s", err, fault.RemedyOf(err))
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waited for %s", waited)
		}
	})
}
