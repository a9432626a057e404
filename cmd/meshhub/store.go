package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/replica"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/store"
	"github.com/meshkit/meshkit/plugins/builtin"
)

func newStore() *cobra.Command {
	root := &cobra.Command{
		Use:   "store",
		Short: "Work with the store that holds a domain's log",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newStoreAccept())
	return root
}

type acceptOptions struct {
	config, reason string
	giveUp         uint64
	patience       time.Duration
}

func newStoreAccept() *cobra.Command {
	o := &acceptOptions{}
	cmd := &cobra.Command{
		Use:   "accept --config DIR/meshhub.yaml",
		Short: "Accept that the log lost entries when its store was put back",
		Long: `Accept is for a ring whose hubs are read-only because the log went back (MK1020): its store was restored from an older
snapshot, and there is no newer one. It prints what is lost. With --give-up and the number of the newest lost entry it
gives those entries up: their places are filled, so that no version and no term is used twice, and the hubs go on by
themselves. It changes nothing while the log is whole.

Before that, save what the running hubs still serve: after it they serve what the store holds.`,
		Example: `  meshhub store accept --config ./hub1/meshhub.yaml
  meshhub store accept --config ./hub1/meshhub.yaml --give-up 4711 --reason "Consul restored from Tuesday's snapshot"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "config"); err != nil {
				return err
			}
			if o.giveUp > 0 && strings.TrimSpace(o.reason) == "" {
				return usage(errors.New("--give-up needs --reason TEXT, which the log keeps"))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.patience)
			defer cancel()
			return o.run(ctx, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "configuration file of a hub of the ring; the hub may run or not")
	f.Uint64Var(&o.giveUp, "give-up", 0, "number of the newest entry that is lost, to confirm that it is given up")
	f.StringVar(&o.reason, "reason", "", "why, for the log; needed with --give-up")
	f.DurationVar(&o.patience, "timeout", 2*time.Minute, "give up waiting for the store after this time")
	return cmd
}

func (o *acceptOptions) run(ctx context.Context, out io.Writer) (err error) {
	c, err := loadConfig(o.config)
	if err != nil {
		return err
	}
	id, err := identity.New(c.Domain, identity.Hub, c.Name)
	if err != nil {
		return err
	}
	var own *store.Mark
	if path := c.positionFile(); path != "" {
		m, found, err := replica.ReadPosition(path)
		if err != nil {
			return err
		}
		if found {
			own = &m
		}
	}
	l, err := builtin.OpenLog(ctx, c.Store.Driver, c.Domain, builtin.StoreOptions{Path: c.Store.Path, URL: c.Store.URL})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	loss, err := replica.FindLoss(ctx, l, own)
	if err != nil {
		return err
	}
	if len(loss.Seen) == 0 {
		fmt.Fprintf(out, "The log of domain %s holds everything that this hub and the alarms in the store name. There is nothing to accept.\n", c.Domain)
		return nil
	}
	tellLoss(out, c.Domain, loss)
	if o.giveUp == 0 {
		fmt.Fprintf(out, "Nothing was changed. Save what the running hubs still serve; then give these entries up with\n  meshhub store accept --config %s --give-up %d --reason TEXT\n", cliutil.ShellQuote(o.config), loss.Seq)
		return nil
	}
	if o.giveUp != loss.Seq {
		return fault.New(fault.CodeLossNotAsStated, "the newest lost entry is %d, and --give-up says %d: nothing was changed", loss.Seq, o.giveUp).
			WithRemedy("Save what the running hubs still serve; then run it again with --give-up %d --reason TEXT.", loss.Seq)
	}
	if err := replica.Accept(ctx, l, store.Holder{Name: c.Name, Address: c.Advertise}, id.String(), o.reason, loss, time.Now()); err != nil {
		return err
	}
	fmt.Fprintf(out, "Given up. The hubs of the ring go on by themselves within seconds; start those that do not run.\n")
	return nil
}

// tellLoss names what is lost.
func tellLoss(out io.Writer, domain string, loss replica.Loss) {
	kept := loss.Kept
	fmt.Fprintf(out, "The log of domain %s ends at entry %d of term %d, written %s.\n", domain, kept.Seq(), kept.Term(), kept.Time().UTC().Format(time.RFC3339))
	for _, m := range loss.Seen {
		fmt.Fprintf(out, "Hub %s has seen entry %d of term %d.\n", m.Hub, m.Seq, m.Term)
	}
	if loss.Seq > kept.Seq() {
		fmt.Fprintf(out, "Lost: entries %d to %d, %d in all: changes, nodes and hubs that joined, tokens, certificates and keysets of that time.\n", kept.Seq()+1, loss.Seq, loss.Seq-kept.Seq())
		return
	}
	fmt.Fprintf(out, "Lost: entries up to %d that other entries took the place of: changes, nodes and hubs that joined, tokens, certificates and keysets of that time.\n", loss.Seq)
}
