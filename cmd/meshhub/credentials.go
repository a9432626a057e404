package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/credentials"
	"github.com/meshkit/meshkit/pkg/identity"
)

func newCredentials() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credentials",
		Short: "Issue operators' certificates with the hub's CA",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCredentialsIssue())
	return cmd
}

type issueOptions struct{ config, operator, out string }

func newCredentialsIssue() *cobra.Command {
	o := &issueOptions{}
	cmd := &cobra.Command{
		Use:   "issue --config DIR/meshhub.yaml --operator NAME --out DIR",
		Short: "Issue an operator's certificate and a meshctl context",
		Long: `Issue makes a key and has the hub's CA certify it for an operator: for a new one, or for one whose certificate has
expired and who can therefore not run "meshctl credentials renew" any more. It works while the hub runs and while it does not.
The issue is not recorded in the domain's log, since a running hub holds the store: note elsewhere who got which.`,
		Example: "  meshhub credentials issue --config ./hub/meshhub.yaml --operator admin --out ./admin-new\n  meshctl context add --from ./admin-new/context.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "config", "operator", "out"); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "the hub's configuration file")
	f.StringVar(&o.operator, "operator", "", "name of the operator")
	f.StringVar(&o.out, "out", "", "directory to write: a new one, or one with this operator's certificate, which is replaced")
	return cmd
}

func (o *issueOptions) run(ctx context.Context, out io.Writer) error {
	if err := identity.ValidName(o.operator); err != nil {
		return usage(fmt.Errorf("--operator: %w", err))
	}
	c, err := loadConfig(o.config)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(o.out)
	if err != nil {
		return fault.New(fault.CodeIO, "find %s: %w", o.out, err)
	}
	certificate := credentials.OperatorFiles(dir, o.operator).Cert
	// Another operator's context.yaml, or a hub's directory, is not to be written over.
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return fault.New(fault.CodeIO, "read %s: %w", dir, err)
	}
	if _, err := os.Stat(certificate); err != nil && len(entries) > 0 {
		return usage(fmt.Errorf("--out %s is not empty and holds no certificate of %s; name a new directory", o.out, o.operator))
	}
	log := slog.New(slog.DiscardHandler)
	_, above, err := c.hubCA(ctx, log)
	if err != nil {
		return err
	}
	authority, err := c.authority(ctx, above, log)
	if err != nil {
		return err
	}
	source, err := credentials.IssueOperator(ctx, authority, c.Domain, o.operator, cmp.Or(c.Advertise, c.Listen), dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Certificate of %s is in %s, valid until %s.\n\nNext:\n  meshctl context add --from %s\n",
		source.ID(), certificate, source.NotAfter().UTC().Format(time.RFC3339), credentials.ContextFile(dir))
	if c.Store.URL != "" { // other hubs may share it
		fmt.Fprint(out, "  meshctl context sync   # the context names this hub; this adds the domain's others\n")
	}
	return nil
}
