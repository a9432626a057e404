package change

import (
	"strconv"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

type undoOptions struct {
	app        *cliutil.App
	write      writeFlags
	message    string
	allowLarge bool
}

// NewUndo is `meshctl undo`.
func NewUndo(app *cliutil.App) *cobra.Command {
	o := &undoOptions{app: app}
	cmd := &cobra.Command{
		Use:   "undo [SEQ]",
		Short: "Take back a change",
		Long: `Undo commits the inverse of a change: of the newest one that is not undone yet, or of the one with sequence number
SEQ ("meshctl history" lists them). It is a change like any other: validated, durable, in the history. Another undo goes
further back; to take an undo itself back, give its SEQ.`,
		Example: `  meshctl undo
  meshctl undo 42 --wait
  meshctl undo --dry-run`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	o.write.register(cmd)
	cmd.Flags().StringVarP(&o.message, "message", "m", "", "why, for the history")
	cmd.Flags().BoolVar(&o.allowLarge, "allow-large-change", false, "permit removing more of the mesh than DomainSettings allow")
	return cmd
}

func (o *undoOptions) run(cmd *cobra.Command, args []string) error {
	format, id, err := o.write.begin(o.app)
	if err != nil {
		return err
	}
	var seq uint64
	if len(args) == 1 {
		if seq, err = strconv.ParseUint(args[0], 10, 64); err != nil || seq == 0 {
			return cliutil.Usagef("%q is not a sequence number", args[0])
		}
	}
	c, err := o.app.Connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := o.app.Deadline(cmd.Context())
	defer cancel()
	req := &adminv1.UndoRequest{Seq: seq, RequestId: id, DryRun: o.write.dryRun, AllowLargeChange: o.allowLarge, Message: o.message}
	resp, err := c.Undo(ctx, req)
	if err != nil && refusedByValidation(err) {
		req.DryRun = true // the error names the first finding only; a dry run names all
		if tried, tryErr := c.Undo(ctx, req); tryErr == nil {
			if seq == 0 {
				o.app.IO.Notef("the newest change that is not undone yet is seq %d; to undo it:", tried.GetUndid())
			}
			if shown := showHub(o.app.IO, tried); shown != nil {
				return shown
			}
		}
	}
	if err != nil {
		return o.app.Unknown(err, id)
	}
	if err := showHub(o.app.IO, resp); err != nil {
		return err
	}
	return finish(cmd.Context(), o.app, c, format, outcome{verb: "undid seq " + strconv.FormatUint(resp.GetUndid(), 10),
		resp: resp.GetResult(), doc: cliutil.ProtoJSON(resp), write: o.write})
}

func showHub(s *cliutil.IO, r *adminv1.UndoResponse) error {
	return ShowFindings(s, (&Input{}).fromHub(r.GetResult().GetPlan().GetFindings()))
}
