// Package backups holds `meshctl store`: taking backups of a domain's log, and
// checking them.
package backups

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/backup"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/trust"
	"github.com/meshkit/meshkit/pkg/wire"
)

// New is `meshctl store`.
func New(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Back up a domain's log, and check backups",
		Long: `A backup holds the domain's log and the state that it folds into, signed by a hub: resources, history, nodes, tokens' hashes,
trust metadata. It holds no private key; those are in the hubs' directories. "meshhub restore" fills an empty store from it.`,
	}
	cmd.AddCommand(newExport(app), newVerify(app))
	return cmd
}

func newExport(app *cliutil.App) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "export [-o FILE]",
		Short: "Write a signed backup of the domain's log",
		Long: `Export asks any hub for a backup as of now: what was committed before it was called is in it. The hub reads it from its store,
which must answer. The backup is verified while it is written. With -o, FILE appears only when it is whole; without, the backup goes to stdout, which must not be a terminal, and
is whole only if meshctl exits 0.`,
		Example: `  meshctl store export -o backup.mk
  meshctl store export > backup.mk`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c := app.Flags.Consistency; c == string(wire.ConsistencyStale) {
				return cliutil.Usagef("--consistency %s: a backup is read from the store, and holds all that was acknowledged", c)
			}
			if slices.Contains(cliutil.Formats, path) {
				return cliutil.Usagef("-o names the file of a backup, which has one format").WithRemedy("to write a file of that name: -o ./%s", path)
			}
			if path == "" && app.IO.OutTerminal {
				return cliutil.Usagef("a backup is binary, and stdout is a terminal").WithRemedy("write it to a file: `meshctl store export -o backup.mk`")
			}
			return export(cmd.Context(), app, path)
		},
	}
	cmd.Flags().StringVarP(&path, "output", "o", "", "file to write (default: stdout)")
	cmd.MarkFlagFilename("output")
	return cmd
}

func export(ctx context.Context, app *cliutil.App, path string) error {
	var v backup.Verified
	var err error
	if path == "" {
		v, err = receive(ctx, app, app.IO.Out)
	} else {
		v, err = receiveFile(ctx, app, path)
	}
	if err != nil {
		return err
	}
	app.IO.Donef("backup of %s: %d entries, %d bytes", v, v.Entries, v.Size())
	app.IO.Notef("It holds no keys. Keep with it, elsewhere: the hubs' directories with keys/, ca/ and tls/, and root/root-*.json, which says whose backup it is.")
	return nil
}

// receive writes a backup to w and verifies it on the way.
func receive(ctx context.Context, app *cliutil.App, w io.Writer) (backup.Verified, error) {
	c, err := app.Connect()
	if err != nil {
		return backup.Verified{}, err
	}
	defer c.Close()
	out, in := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := c.Export(ctx, io.MultiWriter(w, in))
		in.CloseWithError(err) // nil ends the stream
		sent <- err
	}()
	v, err := backup.Verify(ctx, out, backup.Check{})
	out.CloseWithError(errRefused) // has Export end, if it has not
	// Why the stream broke tells more than that the backup is not whole.
	if serr := <-sent; serr != nil && !errors.Is(serr, errRefused) {
		return v, serr
	}
	return v, err
}

// errRefused ends an export of what is not a backup.
var errRefused = errors.New("the backup was refused")

// receiveFile gives the file its name when it is whole and durable.
func receiveFile(ctx context.Context, app *cliutil.App, path string) (v backup.Verified, err error) {
	tmp := path + durable.TempSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return v, fault.New(fault.CodeIO, "write the backup: %w", err)
	}
	defer os.Remove(tmp)
	v, err = receive(ctx, app, f)
	if serr := f.Sync(); err == nil && serr != nil {
		err = fault.New(fault.CodeIO, "write the backup: %w", serr)
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = fault.New(fault.CodeIO, "write the backup: %w", cerr)
	}
	if err != nil {
		return v, err
	}
	if err := durable.Rename(durable.OS, tmp, path); err != nil {
		return v, fault.New(fault.CodeIO, "write the backup: %w", err)
	}
	return v, nil
}

func newVerify(app *cliutil.App) *cobra.Command {
	var roots []string
	var output string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check that a backup is whole, and whose it is",
		Long: `Verify reads a backup and asks no hub. It checks the hash chain of the log, that the state in the backup is what the log folds
into, and the signature. Whose backup it is, it can only tell when --root names root metadata that you trust, like
root/root-1.json of the first hub; otherwise the backup is held against itself.`,
		Example: `  meshctl store verify backup.mk --root ./hub/root/root-1.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := cliutil.ParseFormat(output, "table", "json", "yaml", "jsonpath")
			if err != nil {
				return err
			}
			return verify(cmd.Context(), app, args[0], roots, format)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.Flags().StringSliceVar(&roots, "root", nil, "root metadata to hold the backup against, oldest first")
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.DocumentFormats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	cmd.MarkFlagFilename("root", "json")
	return cmd
}

// verified is what verify -o json prints.
type verified struct {
	File      string    `json:"file"`
	Domain    string    `json:"domain"`
	First     uint64    `json:"firstEntry"`
	Seq       uint64    `json:"seq"`
	Term      uint64    `json:"term"`
	Head      string    `json:"head"`
	Bytes     uint64    `json:"bytes"`
	CreatedAt time.Time `json:"createdAt"`
	Hub       string    `json:"hub"`
	KeyID     string    `json:"keyId"`
	FirstRoot string    `json:"firstRoot"`
	// Folded: the state was compared with what the log folds into. Pinned: the backup was
	// held against --root.
	Folded bool `json:"folded"`
	Pinned bool `json:"pinned"`
}

func verify(ctx context.Context, app *cliutil.App, path string, roots []string, format cliutil.Format) error {
	var c backup.Check
	for _, p := range roots {
		data, err := os.ReadFile(p)
		if err != nil {
			return fault.New(fault.CodeIO, "read root metadata: %w", err)
		}
		if _, err := trust.InspectRoot(data); err != nil {
			return fault.New(fault.CodeMetadataInvalid, "%s is not root metadata: %w", p, err).
				WithRemedy("Name public metadata, like root/root-1.json of the first hub, or what `meshctl trust show --save DIR` writes.")
		}
		c.Roots = append(c.Roots, data)
	}
	f, err := os.Open(path)
	if err != nil {
		return fault.New(fault.CodeIO, "open the backup: %w", err)
	}
	defer f.Close()
	v, err := backup.Verify(ctx, bufio.NewReaderSize(f, 256<<10), c)
	if err != nil {
		return err
	}
	app.IO.Donef("%s is whole and signed: %s", filepath.Base(path), v)
	if format.Structured() {
		doc, err := cliutil.MarshalJSON(verified{
			File: path, Domain: v.State.Domain(), First: v.Trimmed + 1, Seq: v.Head.Seq, Term: v.Head.Term, Head: hex.EncodeToString(v.Head.Hash[:]),
			Bytes: v.Size(), CreatedAt: v.Backup.GetCreatedAt().AsTime(), Hub: v.SignedBy.Hub, KeyID: v.SignedBy.KeyID, FirstRoot: v.Anchors.Pin(),
			Folded: v.Folded, Pinned: v.Pinned,
		})
		if err != nil {
			return fault.New(fault.CodeInternal, "encode the result: %w", err)
		}
		return app.IO.PrintDocument(format, doc)
	}
	app.IO.Outf("entries    %d to %d\nbytes      %d\nhead       %x\nsigned by  hub %s, key %s", v.Trimmed+1, v.Head.Seq, v.Size(), v.Head.Hash, v.SignedBy.Hub, v.SignedBy.KeyID)
	app.IO.Outf("first root %s", v.Anchors.Pin())
	if !v.Folded {
		app.IO.Notef("The log's older entries were trimmed: that the state follows from them is told by the signature alone.")
	}
	if !v.Pinned {
		app.IO.Notef("Not held against a root of trust: name root metadata that you trust with --root.")
	}
	return nil
}
