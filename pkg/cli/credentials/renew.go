package credentials

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
)

func newRenew(app *cliutil.App) *cobra.Command {
	return &cobra.Command{
		Use:   "renew",
		Short: "Replace your certificate and key by new ones",
		Long: `Renew makes a new key, has the hub certify it in the name that the present certificate carries, checks the answer against
the CA file, and writes certificate and key over the context's files. The key never leaves this machine. Until the answer is
checked nothing is written; a crash while writing leaves the old pair or the new one.`,
		Example: "  meshctl credentials renew",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := app.Deadline(cmd.Context())
			defer cancel()
			return renew(ctx, app)
		},
	}
}

// renew does not go through app.Connect, whose warning would name this command.
func renew(ctx context.Context, app *cliutil.App) error {
	cfg, err := app.Target()
	if err != nil {
		return err
	}
	source, err := client.LoadCredentials(cfg)
	if err != nil {
		return err
	}
	c, err := app.Dial(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	before := source.NotAfter()
	if err := replace(ctx, app, c, source); err != nil {
		if !app.Now().Before(before) { // hubs take expired ones for a while, so it was worth asking
			return fault.New(fault.CodeCredentials, "the certificate expired at %s and was not renewed: %w", cliutil.Stamp(before), err).
				WithRemedy("On the hub's machine: %s", cliutil.IssueCommand(source.ID().Name))
		}
		return err
	}
	if err := source.SaveFiles(mtls.Files{Cert: cfg.CertFile, Key: cfg.KeyFile, CA: cfg.CAFile}); err != nil {
		return fault.New(fault.CodeIO, "write the renewed certificate: %w", err).
			WithRemedy("Make the directories of %s, %s and %s writable, and run `meshctl credentials renew` again; the files are still usable.", cfg.CertFile, cfg.KeyFile, cfg.CAFile)
	}
	app.IO.Donef("certificate of %s renewed, valid until %s (before: %s)\nwritten: %s, %s",
		source.ID(), cliutil.Stamp(source.NotAfter()), cliutil.Stamp(before), cfg.CertFile, cfg.KeyFile)
	return nil
}

// replace puts a new key and certificate into source, whose SetCertificate holds
// the answer to the same identity and to the CA file.
func replace(ctx context.Context, app *cliutil.App, c *client.Client, source *mtls.Source) error {
	uri, err := url.Parse(source.ID().String())
	if err != nil {
		return fault.New(fault.CodeInternal, "name of the certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault.New(fault.CodeInternal, "make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return fault.New(fault.CodeInternal, "make certificate request: %w", err)
	}
	chain, err := c.Renew(ctx, csr)
	if err != nil {
		return err
	}
	if err := source.SetCertificate(mtls.Certificate(chain, key)); err != nil {
		return fault.New(fault.CodeCredentials, "the hub's answer is refused, and nothing was written: %w", err)
	}
	if until := source.NotAfter(); !until.After(app.Now()) {
		return fault.New(fault.CodeCredentials, "the hub's certificate is valid until %s, which has passed here; nothing was written", cliutil.Stamp(until)).
			WithRemedy("Compare this machine's clock with the hub's, then run `meshctl credentials renew` again.")
	}
	return nil
}
