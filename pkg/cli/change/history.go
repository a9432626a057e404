package change

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/resource"
)

type historyOptions struct {
	app       *cliutil.App
	namespace string
	output    string
	limit     uint32
}

// maxLimit is how many changes a hub keeps, and gives at most.
const maxLimit = 1000

// NewHistory is `meshctl history`.
func NewHistory(app *cliutil.App) *cobra.Command {
	o := &historyOptions{app: app}
	cmd := &cobra.Command{
		Use:   "history [KIND/NAME]",
		Short: "Show who changed what, when and why",
		Long: `History lists the domain's changes, newest first, or those of one resource with what each changed in it. SEQ is what
undo takes.`,
		Example: `  meshctl history
  meshctl history route/checkout
  meshctl history --limit 100 -o json`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.namespace, "namespace", "n", "", "namespace of the resource")
	fl.StringVarP(&o.output, "output", "o", "", "table, wide, json, yaml, name or jsonpath=")
	fl.Uint32Var(&o.limit, "limit", 20, "how many changes, at most 1000")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.Formats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (o *historyOptions) run(cmd *cobra.Command, args []string) error {
	format, err := cliutil.ParseFormat(o.output)
	if err != nil {
		return err
	}
	if o.limit > maxLimit {
		return cliutil.Usagef("--limit %d: at most %d", o.limit, maxLimit)
	}
	var key *adminv1.Key
	if len(args) > 0 {
		ref, err := cliutil.ParseRef(args, o.namespace)
		if err != nil {
			return err
		}
		if ref.Descriptor == nil || ref.Name == "" {
			return cliutil.Usagef("history is of one resource (KIND/NAME) or, without an argument, of the domain")
		}
		key = cliutil.WireKey(ref.Key())
	}
	return o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		entries, err := c.History(ctx, key, o.limit)
		if err != nil {
			return err
		}
		if key != nil && !format.Structured() {
			return o.printDiffs(entries)
		}
		return o.app.IO.Print(format, o.listing(format, entries))
	})
}

func (o *historyOptions) listing(format cliutil.Format, entries []*adminv1.HistoryEntry) *cliutil.Listing {
	l := &cliutil.Listing{Table: &cliutil.Table{Headings: []string{"SEQ", "AGE", "AUTHOR", "CHANGE", "MESSAGE"}}, Empty: "no changes yet"}
	if format.Name == "wide" {
		l.Table.Headings = append(l.Table.Headings, "RESOURCES", "ORIGIN", "REQUEST ID")
	}
	for _, e := range entries {
		row := []string{strconv.FormatUint(e.GetSeq(), 10), cliutil.Ago(o.app.Now(), e.GetTime().AsTime()), author(e.GetAuthor()), counts(e), message(e)}
		if format.Name == "wide" {
			row = append(row, resources(e), e.GetOrigin(), e.GetRequestId())
		}
		l.Table.Add(row...)
		l.Items = append(l.Items, json.RawMessage(cliutil.ProtoJSON(e)))
		l.Names = append(l.Names, strconv.FormatUint(e.GetSeq(), 10))
	}
	return l
}

// printDiffs shows the changes of one resource with their fields.
func (o *historyOptions) printDiffs(entries []*adminv1.HistoryEntry) error {
	if len(entries) == 0 {
		o.app.IO.Notef("no changes are kept of it")
		return nil
	}
	for _, e := range entries {
		head := fmt.Sprintf("seq %d", e.GetSeq())
		rest := fmt.Sprintf("%s  %s ago  by %s  %s", e.GetDiff().GetAction(), cliutil.Ago(o.app.Now(), e.GetTime().AsTime()), author(e.GetAuthor()), message(e))
		var b strings.Builder
		fmt.Fprintf(&b, "%s  %s\n", o.app.IO.PaintOut(cliutil.Bold, head), strings.TrimSpace(cliutil.Clean(rest)))
		writeFields(&b, o.app.IO, e.GetDiff().GetFields())
		for _, effect := range e.GetDiff().GetEffects() {
			fmt.Fprintf(&b, "    %s\n", o.app.IO.PaintOut(cliutil.Cyan, cliutil.Clean(effect)))
		}
		if _, err := o.app.IO.Out.Write([]byte(b.String())); err != nil {
			return err
		}
	}
	return nil
}

// author shortens a SPIFFE id to what differs within a domain.
func author(id string) string {
	if rest, ok := strings.CutPrefix(id, "spiffe://"); ok {
		if _, path, ok := strings.Cut(rest, "/"); ok {
			return path
		}
	}
	return id
}

// resources names the first few that a change touched.
func resources(e *adminv1.HistoryEntry) string {
	const shown = 3
	var names []string
	for _, k := range e.GetKeys()[:min(shown, len(e.GetKeys()))] {
		if key, err := resource.ParseKey(k); err == nil {
			k = cliutil.Short(key)
		}
		names = append(names, k)
	}
	if total := int(e.GetCreated() + e.GetUpdated() + e.GetDeleted()); total > len(names) {
		names = append(names, fmt.Sprintf("+%d", total-len(names)))
	}
	return strings.Join(names, " ")
}

// counts writes "+1 ~2 -3", leaving out zeros.
func counts(e *adminv1.HistoryEntry) string {
	var parts []string
	for _, p := range []struct {
		mark string
		n    uint32
	}{{"+", e.GetCreated()}, {"~", e.GetUpdated()}, {"-", e.GetDeleted()}} {
		if p.n > 0 {
			parts = append(parts, p.mark+strconv.FormatUint(uint64(p.n), 10))
		}
	}
	return strings.Join(parts, " ")
}

func message(e *adminv1.HistoryEntry) string {
	text := e.GetMessage()
	if n := e.GetUndoes(); n > 0 {
		if text == fmt.Sprintf("undo of change %d", n) { // the hub's words when nobody gave any
			text = ""
		}
		text = strings.TrimSuffix(fmt.Sprintf("undoes %d: %s", n, text), ": ")
	}
	if n := e.GetUndoneBy(); n > 0 {
		text = strings.TrimSpace(fmt.Sprintf("%s (undone by %d)", text, n))
	}
	return text
}
