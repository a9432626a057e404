package change

import (
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

// fieldManager is the owner of what meshctl applies.
const fieldManager = "meshctl"

// inputFlags are those of commands that make a change out of files.
type inputFlags struct {
	files          []string
	prune          bool
	forceConflicts bool
	allowLarge     bool
	message        string
	manager        string
}

func (f *inputFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.files, "filename", "f", nil, "file, directory, or - for standard input (repeatable)")
	fl.BoolVar(&f.prune, "prune", false, "also remove what this field manager owns and the files do not name")
	fl.BoolVar(&f.forceConflicts, "force-conflicts", false, "take over fields that another field manager owns")
	fl.BoolVar(&f.allowLarge, "allow-large-change", false, "permit removing more of the mesh than DomainSettings allow")
	fl.StringVarP(&f.message, "message", "m", "", "why, for the history")
	fl.StringVar(&f.manager, "field-manager", fieldManager, "name under which the fields are owned")
	cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

func (f *inputFlags) change(in *Input) *adminv1.Change {
	return &adminv1.Change{Resources: in.contents(), Prune: f.prune, FieldManager: f.manager,
		ForceConflicts: f.forceConflicts, AllowLargeChange: f.allowLarge, Message: f.message}
}

// writeFlags are those of commands that commit something.
type writeFlags struct {
	wait      bool
	timeout   time.Duration
	dryRun    bool
	requestID string
	output    string
}

func (f *writeFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.wait, "wait", false, "wait until every connected agent concerned has it active, or has refused it")
	fl.DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long --wait waits")
	fl.BoolVar(&f.dryRun, "dry-run", false, "let the hub validate and plan, commit nothing")
	fl.StringVar(&f.requestID, "request-id", "", "idempotency key of an earlier try; made up when empty")
	fl.StringVarP(&f.output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(cliutil.DocumentFormats, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
}

// begin checks the flags and gives the request id to use.
func (f *writeFlags) begin(app *cliutil.App) (cliutil.Format, string, error) {
	format, err := cliutil.ParseFormat(f.output, "table", "json", "yaml", "jsonpath")
	if err != nil {
		return format, "", err
	}
	if len(f.requestID) > 64 {
		return format, "", cliutil.Usagef("--request-id is %d characters long; at most 64", len(f.requestID))
	}
	if f.requestID == "" {
		f.requestID = app.NewID()
	}
	app.Verbosef("request id %s", f.requestID)
	return format, f.requestID, nil
}
