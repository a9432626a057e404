package keys

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	trustv1 "github.com/meshkit/meshkit/pkg/api/meshkit/trust/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

// NewTrust is `meshctl trust`.
func NewTrust(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Show the root of trust, and install a new one",
		Long: `The root of trust (TUF root metadata) is pinned by every node when it joins. It names the keys that may sign the keyset,
which in turn lists the hubs' config keys and fixes the CA bundle.`,
	}
	cmd.AddCommand(newTrustShow(app), newTrustPublish(app))
	return cmd
}

type trustShowOptions struct {
	app    *cliutil.App
	output string
	save   string
}

func newTrustShow(app *cliutil.App) *cobra.Command {
	o := &trustShowOptions{app: app}
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the root of trust and the keyset",
		Long: `Show prints versions, expiry, keys and the CA pin. With --save, the signed metadata is written to a directory, as
root-N.json, keyset.json and ca-bundle.pem, to be signed anew elsewhere.`,
		Example: `  meshctl trust show
  meshctl trust show --save ./trust`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.Flags().StringVar(&o.save, "save", "", "write the signed metadata into this directory")
	cmd.MarkFlagDirname("save")
	return cmd
}

func (o *trustShowOptions) run(cmd *cobra.Command) error {
	format, err := cliutil.ParseFormat(o.output, "table", "json", "yaml", "jsonpath")
	if err != nil {
		return err
	}
	return o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		t, err := c.Trust(ctx)
		if err != nil {
			return err
		}
		if o.save != "" {
			if err := saveMetadata(o.save, t); err != nil {
				return err
			}
			o.app.IO.Notef("metadata written to %s", o.save)
		}
		if format.Structured() {
			return o.app.IO.PrintDocument(format, cliutil.ProtoJSON(t))
		}
		return o.print(t)
	})
}

func (o *trustShowOptions) print(t *adminv1.GetTrustResponse) error {
	s := o.app.IO
	s.Outf("Root      version %d, %d of %d keys must sign, expires %s", t.GetRootVersion(), t.GetRootThreshold(), len(t.GetRootKeyIds()), t.GetRootExpiresAt().AsTime().UTC().Format(time.RFC3339))
	s.Outf("Root keys %s", strings.Join(t.GetRootKeyIds(), "\n          "))
	s.Outf("Keyset    version %d, expires %s", t.GetKeysetVersion(), t.GetKeysetExpiresAt().AsTime().UTC().Format(time.RFC3339))
	s.Outf("CA pin    %s\n", t.GetCaPin())
	return keyListing(t).Table.Write(s.Out, true, func(h string) string { return s.PaintOut(cliutil.Bold, h) })
}

func saveMetadata(dir string, t *adminv1.GetTrustResponse) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fault.New(fault.CodeIO, "save trust metadata: %w", err)
	}
	files := map[string][]byte{"keyset.json": t.GetMetadata().GetKeyset(), "ca-bundle.pem": t.GetMetadata().GetCaBundle()}
	roots := t.GetMetadata().GetRoots()
	for i, r := range roots {
		n := t.GetRootVersion() - uint64(len(roots)-1-i)
		files["root-"+strconv.FormatUint(n, 10)+".json"] = r
	}
	for name, data := range files {
		if len(data) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fault.New(fault.CodeIO, "save trust metadata: %w", err)
		}
	}
	return nil
}

type publishOptions struct {
	app      *cliutil.App
	roots    []string
	keyset   string
	caBundle string
	reason   string
}

func newTrustPublish(app *cliutil.App) *cobra.Command {
	o := &publishOptions{app: app}
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Install root or keyset metadata that was signed elsewhere",
		Long: `Publish hands signed metadata to the hub, which accepts it only by the rules that every agent applies (each root signed
by the one before and by itself, versions one up, nothing expired), commits it to the log and sends it to all agents.`,
		Example: `  meshctl trust publish --root root-2.json --reason "yearly rotation"
  meshctl trust publish --keyset keyset.json --ca-bundle ca-bundle.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&o.roots, "root", nil, "root metadata, oldest first (repeatable)")
	fl.StringVar(&o.keyset, "keyset", "", "keyset metadata")
	fl.StringVar(&o.caBundle, "ca-bundle", "", "CA bundle (PEM) that the keyset describes")
	fl.StringVar(&o.reason, "reason", "", "why, for the log")
	cmd.MarkFlagsOneRequired("root", "keyset")
	cmd.MarkFlagFilename("root", "json")
	cmd.MarkFlagFilename("keyset", "json")
	cmd.MarkFlagFilename("ca-bundle", "pem")
	return cmd
}

func (o *publishOptions) run(cmd *cobra.Command) error {
	m := &trustv1.Metadata{}
	for _, path := range o.roots {
		data, err := readMetadata(path)
		if err != nil {
			return err
		}
		m.Roots = append(m.Roots, data)
	}
	var err error
	if o.keyset != "" {
		if m.Keyset, err = readMetadata(o.keyset); err != nil {
			return err
		}
	}
	if o.caBundle != "" {
		if m.CaBundle, err = readMetadata(o.caBundle); err != nil {
			return err
		}
	}
	return o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		r, err := c.PublishTrust(ctx, &adminv1.PublishTrustRequest{Metadata: m, Reason: o.reason})
		if errors.Is(err, fault.CodeBadRequest) {
			if held, herr := c.Trust(ctx); herr == nil && holds(held.GetMetadata(), m) {
				o.app.IO.Notef("published before: root version %d and keyset version %d are in force", held.GetRootVersion(), held.GetKeysetVersion())
				return nil
			}
		}
		if err != nil {
			return err
		}
		o.app.IO.Donef("root version %d and keyset version %d are in force", r.GetRootVersion(), r.GetKeysetVersion())
		return nil
	})
}

// holds tells whether a hub has exactly what is offered.
func holds(held, offered *trustv1.Metadata) bool {
	for _, r := range offered.GetRoots() {
		if !slices.ContainsFunc(held.GetRoots(), func(h []byte) bool { return bytes.Equal(h, r) }) {
			return false
		}
	}
	same := func(held, offered []byte) bool { return len(offered) == 0 || bytes.Equal(held, offered) }
	return same(held.GetKeyset(), offered.GetKeyset()) && same(held.GetCaBundle(), offered.GetCaBundle())
}

func readMetadata(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.CodeNoInput, "%s does not exist", path)
	}
	if err != nil {
		return nil, fault.New(fault.CodeIO, "read metadata: %w", err)
	}
	return data, nil
}
