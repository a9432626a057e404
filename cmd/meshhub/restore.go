package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/restore"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/state"
	"github.com/meshkit/meshkit/pkg/store"
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
	roots, err := restore.Roots(filepath.Join(o.data, "root"), o.roots)
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
	later, err := restore.Look(ctx, v, places(c, to))
	if err != nil {
		return err
	}
	plan, err := later.Plan(v, o.termFloor, o.acceptLoss)
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

// places are where this hub may learn of changes after a backup.
func places(c config, to target) restore.Places {
	p := restore.Places{Position: c.Store.Position, Keys: c.Keys.Dir}
	if to.other {
		old := target{driver: c.Store.Driver, path: c.Store.Path, url: c.Store.URL}
		p.LeftName = old.String()
		p.Left = func(ctx context.Context) (*store.Log, error) {
			return builtin.OpenLog(ctx, old.driver, c.Domain, old.options(false))
		}
	}
	if to.url != "" {
		p.FilledName = to.String()
		p.Filled = func() (*store.Restoration, error) { return builtin.RestoreLog(to.driver, c.Domain, to.options(false)) }
	}
	return p
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
func (o *restoreOptions) tell(out io.Writer, c config, to target, v backup.Verified, p backup.Plan, e restore.Evidence) {
	made := v.Backup.GetCreatedAt().AsTime().UTC().Format(time.RFC3339)
	fmt.Fprintf(out, "Restored into %s: entries %d to %d. The domain goes on in term %d.\n", to, v.Trimmed+1, v.Head.Seq, p.Term)
	if len(e.Says) > 0 {
		fmt.Fprintf(out, "Lost: what was changed after %s.\n", made)
		for _, s := range e.Says {
			fmt.Fprintf(out, "  %s\n", s)
		}
	} else {
		fmt.Fprintf(out, "Nothing here tells of changes after %s; if there were any, they are lost.\n", made)
	}
	for _, n := range e.Notes {
		fmt.Fprintln(out, n)
	}
	if to.other {
		fmt.Fprintf(out, "%s names the new store; the old one is as it was.\n", filepath.Join(o.data, hubdir.ConfigFile))
	}
	if own, err := besides(o.data); err == nil && own != "" {
		fmt.Fprintf(out, "\nNext: start the hub, which serves domain %s beside its own:\n  meshhub run --config %s\n", c.Domain, cliutil.ShellQuote(own))
	} else {
		fmt.Fprintf(out, "\nNext:\n  meshhub run --config %s\n", cliutil.ShellQuote(filepath.Join(o.data, hubdir.ConfigFile)))
	}
	switch {
	case !to.other:
	case to.url == "" && alone(v.State, c.Name):
	case to.url != "":
		fmt.Fprintf(out, "Other hubs of the domain need the same store in their meshhub.yaml: store.driver %s, store.url %q. Do not start them before.\n", to.driver, to.url)
	default:
		fmt.Fprintf(out, "Other hubs of the domain cannot use this store, and must not be started again with the old one: they would go on with another log (MK6067). Drop them with `meshctl key drop HUB`, or move the domain to a store that all reach.\n")
	}
}
