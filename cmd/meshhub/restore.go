package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/plugins/builtin"
)

type restoreOptions struct {
	data, from, store string
	roots             []string
	termFloor         uint64
	acceptLoss, check bool
	patience          time.Duration
}

func newRestore() *cobra.Command {
	o := &restoreOptions{}
	cmd := &cobra.Command{
		Use:   "restore --from FILE --data DIR",
		Short: "Fill an empty store from a backup, the same store or another",
		Long: `Restore takes what "meshctl store export" wrote and fills an empty store with it, for a hub that has its directory: keys,
certificates and meshhub.yaml. With --store it is also the way from bolt to Consul and back: meshhub.yaml is switched last, and
the old store stays as it is. Stop all hubs of the domain first.

Everything is verified before anything is written: the backup's chain, its state, and a signature by a key that its keyset lists
under the root of trust in DIR/root, or in the files named with --root. A store that holds a log is refused.

The domain goes on with the same history, in a term above any that an agent can have seen, so that agents take what comes next
for newer. That term is the clock's, in milliseconds since 1970, or 1,048,576 above the known ones where the clock is wrong.
What was changed after the backup is lost: where something here tells of such changes, --accept-loss is needed.`,
		Example: `  meshhub restore --from backup.mk --data ./hub
  meshhub restore --from backup.mk --data ./hub --store "consul://127.0.0.1:8501/meshkit?dc=dc1"
  meshhub restore --from backup.mk --data ./hub --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "from", "data"); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.patience)
			defer cancel()
			return o.run(ctx, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "backup to restore")
	f.StringVar(&o.data, "data", "", "the hub's directory, with meshhub.yaml")
	f.StringVar(&o.store, "store", "", "store to fill: bolt (DIR/store.db) or consul://HOST:PORT/PREFIX?dc=NAME&token-file=PATH (default: as in meshhub.yaml)")
	f.StringSliceVar(&o.roots, "root", nil, "root metadata to hold the backup against, oldest first (default: DIR/root/root-*.json)")
	f.Uint64Var(&o.termFloor, "term-floor", 0, "term in which the domain goes on (default: by the clock)")
	f.BoolVar(&o.acceptLoss, "accept-loss", false, "restore although something tells of changes after the backup, which are lost")
	f.BoolVar(&o.check, "check", false, "verify the backup against this hub's root of trust and write nothing")
	f.DurationVar(&o.patience, "timeout", 30*time.Minute, "give up after this time")
	return cmd
}

// target is the store to fill.
type target struct {
	driver, path, url string
	// other says that it is not the one in meshhub.yaml.
	other bool
}

func (t target) String() string {
	if t.url != "" {
		return t.url
	}
	return t.path
}

func (t target) options(create bool) builtin.StoreOptions {
	return builtin.StoreOptions{Path: t.path, URL: t.url, Create: create}
}

// target says which store is to be filled.
func (o *restoreOptions) target(c config) (target, error) {
	now := target{driver: c.Store.Driver, path: c.Store.Path, url: c.Store.URL}
	if o.store == "" {
		return now, nil
	}
	here, err := os.Getwd()
	if err != nil {
		return target{}, fault.New(fault.CodeIO, "find the working directory: %w", err)
	}
	to := target{path: c.Store.Path}
	if to.driver, to.url, err = builtin.StoreDriver(o.store, here); err != nil {
		return target{}, usage(err)
	}
	to.other = to != now
	return to, nil
}

func (o *restoreOptions) run(ctx context.Context, out io.Writer) (err error) {
	path := filepath.Join(o.data, hubdir.ConfigFile)
	c, err := loadConfig(path)
	if err != nil {
		return err
	}
	id, err := identity.New(c.Domain, identity.Hub, c.Name)
	if err != nil {
		return err
	}
	to, err := o.target(c)
	if err != nil {
		return err
	}
	roots, err := o.trusted(filepath.Join(o.data, "root"))
	if err != nil {
		return err
	}
	in, err := os.Open(o.from)
	if err != nil {
		return fault.New(fault.CodeIO, "open the backup: %w", err)
	}
	defer in.Close()
	v, err := backup.Verify(ctx, in, backup.Check{Domain: c.Domain, Roots: roots})
	if err != nil {
		return fmt.Errorf("%s: %w", o.from, err)
	}
	fmt.Fprintf(out, "%s is whole and signed: %s.\n", o.from, v)
	if o.check {
		return nil
	}
	later, err := o.evidence(ctx, c, to, v)
	if err != nil {
		return err
	}
	plan, err := o.plan(later, v)
	if err != nil {
		return err
	}
	plan.Author, plan.By = id.String(), whoRestores()
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return fault.New(fault.CodeIO, "read the backup again: %w", err)
	}
	if err := fill(ctx, c.Domain, to, in, v, plan); err != nil {
		return err
	}
	if to.other {
		if err := switchStore(path, to); err != nil {
			return fmt.Errorf("the store %s is restored, but %s still names the other one: %w", to, path, err)
		}
	}
	o.tell(out, c, to, v, plan, later)
	return nil
}

// trusted gives the root metadata that the backup is held against, oldest first.
func (o *restoreOptions) trusted(dir string) ([][]byte, error) {
	paths := o.roots
	if len(paths) == 0 {
		versions, err := hubdir.Roots(dir)
		if err != nil {
			return nil, err
		}
		for _, n := range versions {
			paths = append(paths, filepath.Join(dir, hubdir.RootFile(n)))
		}
	}
	if len(paths) == 0 {
		return nil, fault.New(fault.CodeNoRootPin, "%s holds no root-N.json, and --root names none", dir)
	}
	var roots [][]byte
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, fault.New(fault.CodeIO, "read root metadata: %w", err)
		}
		if _, err := trust.InspectRoot(data); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		roots = append(roots, data)
	}
	return roots, nil
}

// evidence is what tells of changes after a backup.
type evidence struct {
	seq, term uint64
	// says names each piece, for people.
	says []string
	// notes are what could not be looked at.
	notes []string
}

func (e *evidence) add(v backup.Verified, who string, seq, term uint64) {
	if seq <= v.Head.Seq && term <= v.Head.Term {
		return
	}
	e.seq, e.term = max(e.seq, seq), max(e.term, term)
	e.says = append(e.says, fmt.Sprintf("%s: entry %d of term %d", who, seq, term))
}

// evidence looks for changes after the backup: in the position file, in the store that
// the hub used so far, in alarms of other hubs, and in the names of key files.
func (o *restoreOptions) evidence(ctx context.Context, c config, to target, v backup.Verified) (evidence, error) {
	var e evidence
	m, found, err := replica.ReadPosition(c.Store.Position)
	if err != nil {
		return e, err
	}
	if found {
		e.add(v, "this hub has seen, by "+c.Store.Position, m.Seq, m.Term)
	}
	if to.other {
		if err := e.oldStore(ctx, c, v); err != nil {
			return e, err
		}
	}
	if to.url != "" {
		if err := e.newStore(ctx, c.Domain, to, v); err != nil {
			return e, err
		}
	}
	names, err := hubdir.KeyNames(c.Keys.Dir)
	if err != nil {
		return e, err
	}
	for _, name := range names {
		number, ok := strings.CutPrefix(name, keyring.ConfigKey+"-")
		if n, err := strconv.ParseUint(number, 10, 64); ok && err == nil && n > v.Anchors.KeysetVersion() {
			e.says = append(e.says, fmt.Sprintf("key %s is of keyset version %d, and the backup has version %d", filepath.Join(c.Keys.Dir, name+".key"), n, v.Anchors.KeysetVersion()))
		}
	}
	return e, nil
}

// oldStore looks at the store that is given up for another. One that is in use stops
// the restore: two stores must not be written for one domain.
func (e *evidence) oldStore(ctx context.Context, c config, v backup.Verified) (err error) {
	old := target{driver: c.Store.Driver, path: c.Store.Path, url: c.Store.URL}
	l, err := builtin.OpenLog(ctx, old.driver, c.Domain, old.options(false))
	switch {
	case errors.Is(err, fault.CodeStoreLocked):
		return fault.New(fault.CodeStoreLocked, "a hub uses the store %s, which is to be left: %w", old, err).
			WithRemedy("Stop all hubs of the domain, then run it again.")
	case err != nil:
		e.notes = append(e.notes, fmt.Sprintf("The store used so far, %s, could not be looked at for later changes: %v", old, err))
		return nil
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := unused(ctx, l, old, "left"); err != nil {
		return err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return err
	}
	e.add(v, "the store used so far, "+old.String()+", ends with", head.Seq, head.Term)
	return nil
}

// unused refuses a store on which a hub leads; done is what is to be done with it.
func unused(ctx context.Context, in interface {
	Leader(context.Context) (store.Holder, uint64, error)
}, t target, done string) error {
	holder, term, err := in.Leader(ctx)
	switch {
	case err == nil:
		return fault.New(fault.CodeStoreLocked, "hub %s leads on the store %s in term %d, which is to be %s", holder.Name, t, term, done).
			WithRemedy("Stop all hubs of the domain, then run it again; a hub that was killed counts for some seconds more.")
	case errors.Is(err, fault.CodeNoLeader), errors.Is(err, fault.CodeRestoreUnfinished):
		return nil
	}
	return err
}

// newStore looks at the store that is to be filled: no hub may lead on it, and in one
// that lost its log, hubs may have told of more.
func (e *evidence) newStore(ctx context.Context, domain string, to target, v backup.Verified) (err error) {
	r, err := builtin.RestoreLog(to.driver, domain, to.options(false))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := unused(ctx, r, to, "filled"); err != nil {
		return err
	}
	marks, err := r.Alarms(ctx)
	for _, m := range marks {
		e.add(v, "hub "+m.Hub+" has seen", m.Seq, m.Term)
	}
	return err
}

// plan decides on the term, and refuses a loss that nobody accepted.
func (o *restoreOptions) plan(e evidence, v backup.Verified) (backup.Plan, error) {
	if len(e.says) > 0 && !o.acceptLoss {
		return backup.Plan{}, fault.New(fault.CodeRestoreLoss, "the backup ends at entry %d of term %d, and there were changes after it: %s", v.Head.Seq, v.Head.Term, strings.Join(e.says, "; "))
	}
	p := backup.Plan{Term: o.termFloor, LostSeq: e.seq, LostTerm: e.term, Now: time.Now()}
	seen := max(v.Head.Term, e.term)
	if p.LostTerm == 0 && p.LostSeq > 0 {
		p.LostTerm = v.Head.Term
	}
	if p.Term == 0 {
		p.Term = backup.TermFloor(seen, v.Backup.GetCreatedAt().AsTime(), p.Now)
	}
	if p.Term <= seen {
		return p, fault.New(fault.CodeTermFloor, "--term-floor %d is not above term %d, which is known", p.Term, seen)
	}
	return p, nil
}

// whoRestores names the user and machine, as the system has them.
func whoRestores() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return strings.ToValidUTF8(name+"@"+host, "?")
}

func fill(ctx context.Context, domain string, to target, in io.Reader, v backup.Verified, p backup.Plan) (err error) {
	r, err := builtin.RestoreLog(to.driver, domain, to.options(true))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	err = backup.Fill(ctx, r, in, v, p)
	if errors.Is(err, fault.CodeRestoreNotEmpty) {
		remedy := fmt.Sprintf("Move it away, and run it again: mv %s %s.old", to.path, to.path)
		if to.url != "" {
			keys, kerr := builtin.StoreKeys(to.url, domain)
			if kerr != nil {
				return errors.Join(err, kerr)
			}
			remedy = fmt.Sprintf("Name a store that is empty with --store, like the same Consul with another prefix. Or delete the keys of this domain, and no others, once you have saved them: `consul kv export %[1]s > old.json`, then `consul kv delete -recurse %[1]s`.", keys)
		}
		return fault.New(fault.CodeRestoreNotEmpty, "restore into %s: %w", to, err).WithRemedy("%s", remedy)
	}
	return err
}

// switchStore writes the store into meshhub.yaml, and leaves all else as it is.
func switchStore(path string, to target) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fault.New(fault.CodeIO, "read configuration: %w", err)
	}
	before, err := loadConfig(path)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return fault.New(fault.CodeIO, "find the configuration's directory: %w", err)
	}
	section := storeSection(to, before, dir)
	text := withStore(string(data), section)
	// What was written must be read as it is meant, and nothing else may differ.
	probe := path + ".probe"
	if err := durable.WriteFile(durable.OS, probe, []byte(text), 0o600); err != nil {
		return fault.New(fault.CodeIO, "write %s: %w", probe, err)
	}
	defer os.Remove(probe)
	after, err := loadConfig(probe)
	if err != nil {
		return err
	}
	want := before
	want.Store.Driver, want.Store.URL = to.driver, to.url
	if after != want {
		return fault.New(fault.CodeConfig, "%s is written in a way that cannot be changed safely", path).
			WithRemedy("Write this into it by hand:\n%s", section)
	}
	if err := durable.WriteFile(durable.OS, path, []byte(text), 0o600); err != nil {
		return fault.New(fault.CodeIO, "write %s: %w", path, err)
	}
	return nil
}

// storeSection is the store section of a configuration in dir.
func storeSection(to target, c config, dir string) string {
	short := func(p string) string {
		if rel, err := filepath.Rel(dir, p); err == nil && filepath.IsLocal(rel) {
			return rel
		}
		return p
	}
	usual := defaultConfig().Store
	section := "store:\n  driver: " + to.driver + "\n"
	if to.url != "" {
		section += fmt.Sprintf("  url: %q\n", to.url)
	}
	if p := short(c.Store.Path); to.url == "" || p != usual.Path {
		section += fmt.Sprintf("  path: %q\n", p)
	}
	if p := short(c.Store.Position); p != usual.Position {
		section += fmt.Sprintf("  position: %q\n", p)
	}
	return section
}

// withStore replaces the store section of a configuration, or adds one.
func withStore(text, section string) string {
	var out strings.Builder
	inside, done := false, false
	for line := range strings.Lines(text) {
		if inside = inside && (strings.TrimSpace(line) == "" || strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")); inside {
			continue
		}
		if strings.HasPrefix(line, "store:") {
			out.WriteString(section)
			inside, done = true, true
			continue
		}
		out.WriteString(line)
	}
	if !done {
		out.WriteString("\n" + section)
	}
	return out.String()
}

// alone tells whether a domain has no other hub.
func alone(s *state.State, hub string) bool {
	for h := range s.Hubs() {
		if h.GetHub() != hub {
			return false
		}
	}
	return true
}

// tell says what was done and what comes next.
func (o *restoreOptions) tell(out io.Writer, c config, to target, v backup.Verified, p backup.Plan, e evidence) {
	made := v.Backup.GetCreatedAt().AsTime().UTC().Format(time.RFC3339)
	fmt.Fprintf(out, "Restored into %s: entries %d to %d. The domain goes on in term %d.\n", to, v.Trimmed+1, v.Head.Seq, p.Term)
	if len(e.says) > 0 {
		fmt.Fprintf(out, "Lost: what was changed after %s.\n", made)
		for _, s := range e.says {
			fmt.Fprintf(out, "  %s\n", s)
		}
	} else {
		fmt.Fprintf(out, "Nothing here tells of changes after %s; if there were any, they are lost.\n", made)
	}
	for _, n := range e.notes {
		fmt.Fprintln(out, n)
	}
	if to.other {
		fmt.Fprintf(out, "%s names the new store; the old one is as it was.\n", filepath.Join(o.data, hubdir.ConfigFile))
	}
	fmt.Fprintf(out, "\nNext:\n  meshhub run --config %s\n", filepath.Join(o.data, hubdir.ConfigFile))
	switch {
	case !to.other:
	case to.url == "" && alone(v.State, c.Name):
	case to.url != "":
		fmt.Fprintf(out, "Other hubs of the domain need the same store in their meshhub.yaml: store.driver %s, store.url %q. Do not start them before.\n", to.driver, to.url)
	default:
		fmt.Fprintf(out, "Other hubs of the domain cannot use this store, and must not be started again with the old one: they would go on with another log (MK6067). Drop them with `meshctl key drop HUB`, or move the domain to a store that all reach.\n")
	}
}
