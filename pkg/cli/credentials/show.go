package credentials

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/mtls"
)

// shown is the document of -o json.
type shown struct {
	Identity  string    `json:"identity"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	CertFile  string    `json:"certFile"`
	KeyFile   string    `json:"keyFile"`
	CAFile    string    `json:"caFile"`
}

func describe(s *mtls.Source, cfg client.Config) shown {
	leaf := s.Certificate().Leaf
	return shown{s.ID().String(), leaf.NotBefore.UTC(), leaf.NotAfter.UTC(), cfg.CertFile, cfg.KeyFile, cfg.CAFile}
}

func newShow(app *cliutil.App) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show whom your certificate names and until when",
		Long:  "Show reads the files of the context; it asks no hub.",
		Example: `  meshctl credentials show
  meshctl credentials show -o jsonpath={.notAfter}`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			format, err := cliutil.ParseFormat(output, "table", "json", "yaml", "jsonpath")
			if err != nil {
				return err
			}
			cfg, err := app.Target()
			if err != nil {
				return err
			}
			source, err := client.LoadCredentials(cfg)
			if err != nil {
				return err
			}
			d := describe(source, cfg)
			if format.Structured() {
				doc, err := json.Marshal(d)
				if err != nil {
					return fmt.Errorf("encode credentials: %w", err)
				}
				return app.IO.PrintDocument(format, doc)
			}
			left := "expired"
			if rest := d.NotAfter.Sub(app.Now()); rest > 0 {
				left = fmt.Sprintf("%d days left", int(rest/(24*time.Hour)))
			}
			app.IO.Outf("identity    %s\nvalid from  %s\nvalid until %s (%s)\ncertificate %s\nkey         %s\nca          %s",
				d.Identity, cliutil.Stamp(d.NotBefore), cliutil.Stamp(d.NotAfter), left, d.CertFile, d.KeyFile, d.CAFile)
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "table, json, yaml or jsonpath=EXPRESSION")
	return cmd
}
