package fleet

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/resource"
)

type createOptions struct {
	app       *cliutil.App
	out       string
	requestID string
	resumed   bool // it goes on with an earlier try
}

// creatingName is a file beside the operator's key while the domain is being made. It is
// there before the key and before anything is asked, so that the same command goes on
// with the same request, however the first ended.
const creatingName = "creating.json"

// creating is creating.json.
type creating struct {
	Domain    string `json:"domain"`
	RequestID string `json:"requestId"`
}

func newCreate(app *cliutil.App) *cobra.Command {
	o := &createOptions{app: app}
	cmd := &cobra.Command{
		Use:   "create DOMAIN",
		Short: "Make another domain on the same hubs",
		Long: `Create makes a domain on the hubs of this one: they serve both on the same port, keep both logs in the same store, and share
the leading of them. Nothing else is shared: root of trust, CA, keys, log, epochs, agents and operators are the new domain's own.

You become its first operator: a key is made here and never leaves this machine, and a context of the domain's name is added.
Agents join with a token of the new domain at the same address. When the answer is lost, or a hub could not join, repeat the
command: it goes on with what was begun, and makes nothing twice. Any hub can be asked, whichever leads.`,
		Example: `  meshctl domain create eu-central
  meshctl --context eu-central get domains`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	cmd.Flags().StringVar(&o.out, "out", "", "directory for your key and certificates (default: DOMAIN beside the context file)")
	cmd.Flags().StringVar(&o.requestID, "request-id", "", "idempotency key of an earlier try; when empty, that of a try that --out holds, or a new one")
	return cmd
}

func (o *createOptions) run(cmd *cobra.Command, domain string) error {
	if why := resource.NameProblem(domain); why != "" {
		return cliutil.Usagef("domain %q %s", domain, why)
	}
	path := cliutil.ContextPath(o.app.IO.Env)
	contexts, err := cliutil.LoadContexts(path)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(cmp.Or(o.out, filepath.Join(filepath.Dir(path), domain)))
	if err != nil {
		return fault.New(fault.CodeIO, "find %s: %w", o.out, err)
	}
	to := mtls.Files{Cert: filepath.Join(dir, "admin.pem"), Key: filepath.Join(dir, "admin.key"), CA: filepath.Join(dir, "ca.pem")}
	id, err := o.begin(dir, domain, to)
	if err != nil {
		return err
	}
	key, err := keyFile(to.Key)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fault.New(fault.CodeInternal, "make certificate request: %w", err)
	}
	o.app.Verbosef("request id %s", id)
	asked := false
	err = o.app.Call(cmd, func(ctx context.Context, c *client.Client) error {
		asked = true
		r, err := c.CreateDomain(ctx, &adminv1.CreateDomainRequest{Domain: domain, Csr: csr, RequestId: id})
		if err != nil {
			return o.failed(err, id, to.Key)
		}
		entry := cliutil.Context{Name: domain, Hub: c.Hub(), Domain: domain, CAFile: to.CA, CertFile: to.Cert, KeyFile: to.Key}
		until, err := keep(contexts, entry, to, key, r)
		if err != nil {
			return o.again(err, id, to.Key)
		}
		return o.report(domain, dir, id, c.Hub(), r, until)
	})
	if err != nil && !asked {
		o.dropKey(to.Key)
	}
	return err
}

// keep saves the operator's certificate and context, and tells until when it is good.
func keep(contexts *cliutil.Contexts, entry cliutil.Context, to mtls.Files, key crypto.Signer, r *adminv1.CreateDomainResponse) (time.Time, error) {
	source, err := mtls.NewSource(mtls.Certificate(r.GetCertificateChain(), key), r.GetCaBundle())
	if err != nil {
		return time.Time{}, fault.New(fault.CodeCredentials, "the hub's answer is refused: %w", err)
	}
	if got := source.ID().Domain; got != entry.Domain {
		return time.Time{}, fault.New(fault.CodeCredentials, "the hub's answer is refused: the certificate is of domain %q", got)
	}
	if err := source.SaveFiles(to); err != nil {
		return time.Time{}, err
	}
	contexts.Put(entry)
	contexts.CurrentContext = cmp.Or(contexts.CurrentContext, entry.Name)
	return source.NotAfter(), contexts.Save()
}

// begin gives the request's id: that of an earlier try, or a new one, which is kept
// before anything is made or asked.
func (o *createOptions) begin(dir, domain string, to mtls.Files) (id string, err error) {
	path := filepath.Join(dir, creatingName)
	data, err := durable.ReadFile(durable.OS, path, 4<<10)
	var before creating
	if err == nil {
		if err := json.Unmarshal(data, &before); err != nil || before.Domain != domain || before.RequestID == "" {
			return "", cliutil.Usagef("%s is of the making of domain %q, not of %s", path, before.Domain, domain).WithRemedy("give another --out; or go on with that domain: meshctl domain create %s", cliutil.ShellQuote(before.Domain))
		}
	}
	if has, err := mtls.LoadFiles(to); err == nil && has.ID().Domain != domain {
		return "", cliutil.Usagef("%s is of domain %q, not of %s", to.Cert, has.ID().Domain, domain).WithRemedy("give another --out")
	}
	switch {
	case o.requestID != "":
		o.resumed = true
		return o.requestID, nil
	case err == nil:
		o.resumed = true
		o.app.IO.Notef("going on with the request that was begun in %s", dir)
		return before.RequestID, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fault.New(fault.CodeIO, "read %s: %w", path, err)
	}
	if _, err := os.Stat(to.Key); err == nil {
		return "", cliutil.Usagef("%s exists", to.Key).WithRemedy("give another --out; or, to go on with an earlier try, repeat the command that it printed, with its --request-id")
	}
	before = creating{Domain: domain, RequestID: o.app.NewID()}
	if data, err = json.Marshal(before); err != nil {
		return "", fault.New(fault.CodeInternal, "encode the request: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fault.New(fault.CodeIO, "make %s: %w", dir, err)
	}
	if err := durable.WriteFile(durable.OS, path, data, 0o600); err != nil {
		return "", fault.New(fault.CodeIO, "write %s: %w", path, err)
	}
	return before.RequestID, nil
}

// keyFile makes the operator's key, or finds that of an earlier try.
func keyFile(path string) (crypto.Signer, error) {
	switch _, err := os.Stat(path); {
	case err == nil:
		return mtls.ReadKey(path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.CodeIO, "look for %s: %w", path, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fault.New(fault.CodeInternal, "encode key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.New(fault.CodeIO, "make %s: %w", filepath.Dir(path), err)
	}
	if err := durable.WriteFile(durable.OS, path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, fault.New(fault.CodeIO, "write %s: %w", path, err)
	}
	return key, nil
}

// failed removes the key when nothing was made for it, so that the command can be
// given again as it was.
func (o *createOptions) failed(err error, id, key string) error {
	switch fault.KindOf(err) {
	case fault.Unknown, fault.Canceled, fault.Timeout, fault.Unavailable, fault.Internal:
		return o.again(err, id, key)
	}
	// Who refuses need not be the hub that had the earlier try, and made the domain.
	if lost := client.EarlierTry(err); lost != nil {
		return o.again(fmt.Errorf("%w; of an earlier try the outcome is not known: %v", err, lost), id, key)
	}
	o.dropKey(key)
	return err
}

// dropKey removes the key that this run made, and the directory if it is empty then.
func (o *createOptions) dropKey(key string) {
	if !o.resumed {
		_ = os.Remove(key)
		_ = os.Remove(filepath.Join(filepath.Dir(key), creatingName))
		_ = os.Remove(filepath.Dir(key))
	}
}

// again puts the command that goes on under an error after which the key stays.
func (o *createOptions) again(err error, id, key string) error {
	switch fault.KindOf(err) {
	case fault.Unknown, fault.Canceled:
		return o.app.Unknown(err, id)
	}
	remedy := fmt.Sprintf("Repeat it; your key is kept in %s:\n%s\n(the same request id makes one domain at most)", key, o.app.RetryCommand(id))
	if first := fault.RemedyOf(err); first != "" {
		remedy = first + "\n" + remedy
	}
	return &fault.Error{Code: fault.CodeOf(err), Kind: fault.KindOf(err), Message: err.Error(), Remedy: remedy, Cause: err}
}

func (o *createOptions) report(domain, dir, id, hub string, r *adminv1.CreateDomainResponse, until time.Time) error {
	missing := 0
	for _, h := range r.GetHubs() {
		if h.GetProblem() != "" {
			missing++
			o.app.IO.Notef("hub %s does not serve %s yet: %s", h.GetHub(), domain, h.GetProblem())
		}
	}
	o.app.IO.Donef("domain %s is served by %d of %d hubs; your certificate in %s is valid until %s", domain, len(r.GetHubs())-missing, len(r.GetHubs()), dir, cliutil.Stamp(until))
	o.app.IO.Notef(`
CA pin (for meshagent join): %s
Take the root keys offline; the hubs run without them. On the machine of hub %s:
  %s
Next:
  meshctl --context %s token create
`, r.GetCaPin(), r.GetHub(), r.GetRootKeys(), cliutil.ShellQuote(domain))
	if len(r.GetHubs()) > 1 && !strings.Contains(hub, ",") {
		o.app.IO.Notef("  meshctl context sync %s   # it names one hub; this adds the others", cliutil.ShellQuote(domain))
	}
	if missing > 0 {
		return fault.New(fault.CodePartial, "%d of %d hubs do not serve domain %s yet", missing, len(r.GetHubs()), domain).
			WithRemedy("Once they can, run it again: %s", o.app.RetryCommand(id))
	}
	_ = os.Remove(filepath.Join(dir, creatingName)) // should it stay, the next try is told what is there
	return nil
}
