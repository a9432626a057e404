// Package credentials holds the verbs about the operator's own certificate.
package credentials

import (
	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

// New is `meshctl credentials`.
func New(app *cliutil.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credentials",
		Short: "Show and renew your own certificate",
		Long: `An operator's certificate is good for 90 days. Renew it before it ends: the hub renews only for who can still show one.
When it has ended, ` + "`meshhub credentials issue`" + ` on the hub's machine makes another.`,
	}
	cmd.AddCommand(newShow(app), newRenew(app))
	return cmd
}
