package cliutil

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/wire"
)

// App is what the commands share. The root command fills Flags.
type App struct {
	IO    *IO
	Flags Flags
	// Args is the command line as typed, program name first.
	Args []string
	// Dial opens the admin API; tests replace it.
	Dial func(cfg client.Config) (*client.Client, error)
	// Now is the clock for ages; tests fix it.
	Now func() time.Time
	// NewID makes request ids; tests fix it.
	NewID func() string
	// expiry warns at most once, however many connections a command makes.
	expiry sync.Once
	// stale does so for answers that may be old.
	stale sync.Once
	// context is the one of the context file that the hub's address was taken from.
	context Context
	// chosen is the name of the context that Target used; "": it needed none.
	chosen string
}

// Flags are those of every command.
type Flags struct {
	Context, Hub, CAFile, CertFile, KeyFile string
	Verbose                                 bool
	// Consistency of reads, as typed.
	Consistency string
	// RequestTimeout limits one call; waits and watches are not calls.
	RequestTimeout time.Duration
}

// NewApp makes the App of a real process.
func NewApp(io *IO, args []string) *App {
	return &App{IO: io, Args: args, Dial: client.Dial, Now: time.Now, NewID: NewRequestID}
}

// NewRequestID makes a random UUID (version 4, RFC 9562).
func NewRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, by its documentation
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Connect opens the admin API of the chosen hub. The caller closes the client.
func (a *App) Connect() (*client.Client, error) {
	cfg, err := a.Target()
	if err != nil {
		return nil, err
	}
	if cfg.Consistency, err = wire.ParseConsistency(cmp.Or(a.Flags.Consistency, a.IO.Env("MESHKIT_CONSISTENCY"))); err != nil {
		return nil, Usagef("--consistency: %v", err)
	}
	cfg.OnStale = func(why string) {
		a.stale.Do(func() { a.IO.Notef("warning: what the hub answers may be old: %s", Clean(why)) })
	}
	a.expiry.Do(func() { a.warnOfExpiry(cfg) })
	return a.Dial(cfg)
}

// ExpiryWarning is how long before its end a certificate is spoken of: long enough
// for a holiday, while the hub still renews it on a plain call.
const ExpiryWarning = 14 * 24 * time.Hour

// warnOfExpiry tells people on stderr that the certificate ends soon. Files that
// cannot be read are Dial's to report.
func (a *App) warnOfExpiry(cfg client.Config) {
	source, err := client.LoadCredentials(cfg)
	if err != nil {
		return
	}
	until, now := source.NotAfter(), a.Now()
	switch {
	case !now.Before(until):
		a.IO.Notef("the certificate of %s expired at %s; on the hub's machine: %s", source.ID(), Stamp(until), IssueCommand(source.ID().Name))
	case until.Sub(now) < ExpiryWarning:
		renew := "meshctl credentials renew"
		if a.Flags.Context != "" {
			renew += " --context " + ShellQuote(a.Flags.Context)
		}
		a.IO.Notef("the certificate of %s expires at %s; renew it with: %s", source.ID(), Stamp(until), renew)
	}
}

// IssueCommand is what gives an operator a certificate when theirs has expired.
func IssueCommand(operator string) string {
	return "meshhub credentials issue --config DIR/meshhub.yaml --operator " + ShellQuote(operator) + " --out NEWDIR"
}

// Stamp writes a time for people, in UTC.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Target says which hub and credentials to use: each from its flag, else its
// environment variable, else the chosen context.
func (a *App) Target() (client.Config, error) {
	env := a.IO.Env
	cfg := client.Config{
		Hub:      cmp.Or(a.Flags.Hub, env("MESHKIT_HUB")),
		CAFile:   cmp.Or(a.Flags.CAFile, env("MESHKIT_CA_FILE")),
		CertFile: cmp.Or(a.Flags.CertFile, env("MESHKIT_CERT_FILE")),
		KeyFile:  cmp.Or(a.Flags.KeyFile, env("MESHKIT_KEY_FILE")),
	}
	named := cmp.Or(a.Flags.Context, env("MESHKIT_CONTEXT"))
	complete := cfg.Hub != "" && cfg.CAFile != "" && cfg.CertFile != "" && cfg.KeyFile != ""
	if named == "" && complete {
		return cfg, nil
	}
	file, err := LoadContexts(ContextPath(env))
	if err != nil {
		return client.Config{}, err
	}
	c, err := a.choose(file, named)
	if err != nil {
		return client.Config{}, err
	}
	a.chosen = c.Name
	if cfg.Hub == "" {
		cfg.Hub = c.Hub
		if slices.Contains(file.Names(), c.Name) {
			a.context = c
		}
	}
	cfg.CAFile = cmp.Or(cfg.CAFile, c.CAFile)
	cfg.CertFile = cmp.Or(cfg.CertFile, c.CertFile)
	cfg.KeyFile = cmp.Or(cfg.KeyFile, c.KeyFile)
	cfg.Domain = c.Domain
	for _, f := range []struct{ name, value string }{{"hub address", cfg.Hub}, {"CA file", cfg.CAFile}, {"client certificate", cfg.CertFile}, {"client key", cfg.KeyFile}} {
		if f.value == "" {
			return client.Config{}, fault.New(fault.CodeNoContext, "no %s: neither a flag, the environment nor the context %q sets it", f.name, c.Name)
		}
	}
	return cfg, nil
}

// Chosen is the name of the context that Target used: the one that was named, or the
// current one; "" when flags and environment say all.
func (a *App) Chosen() string { return a.chosen }

// NoteHubs tells a person whose context names one hub of several how it comes to name
// the others.
func (a *App) NoteHubs(hubs int) {
	if !a.IO.ErrTerminal || hubs < 2 || a.context.Hub == "" || strings.Contains(a.context.Hub, ",") {
		return
	}
	command := "meshctl context sync"
	if a.Flags.Context != "" {
		command += " " + ShellQuote(a.Flags.Context)
	}
	a.IO.Notef("context %s names one hub, and with that one away meshctl reaches none; %s adds the others", a.context.Name, command)
}

// choose picks the named or current context; when there is neither, that of a
// hub that was made in the working directory.
func (a *App) choose(file *Contexts, named string) (Context, error) {
	c, err := file.Choose(named)
	if !errors.Is(err, fault.CodeNoContext) || len(file.Contexts) > 0 {
		return c, err
	}
	path, ok := discover()
	if !ok {
		return c, err
	}
	near, loadErr := LoadContexts(path)
	if loadErr != nil {
		return c, loadErr
	}
	if c, err = near.Choose(""); err == nil {
		a.IO.Notef("using the hub of %s (make it permanent with: meshctl context add --from %s)", path, path)
	}
	return c, err
}

// Call runs f with a client and the request timeout, for commands that make
// plain calls.
func (a *App) Call(cmd *cobra.Command, f func(ctx context.Context, c *client.Client) error) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := a.Deadline(cmd.Context())
	defer cancel()
	return f(ctx, c)
}

// Deadline limits ctx by the request timeout.
func (a *App) Deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, cmp.Or(a.Flags.RequestTimeout, 30*time.Second))
}

// Verbosef tells people more, under -v.
func (a *App) Verbosef(format string, args ...any) {
	if a.Flags.Verbose {
		a.IO.Notef(format, args...)
	}
}

// RetryCommand is the command line as typed, with the request id, quoted for a
// shell: what to run when the outcome of a write is unknown.
func (a *App) RetryCommand(requestID string) string {
	args := make([]string, 0, len(a.Args)+1)
	for i := 0; i < len(a.Args); i++ {
		if a.Args[i] == "--request-id" {
			i++ // and its value
			continue
		}
		if strings.HasPrefix(a.Args[i], "--request-id=") {
			continue
		}
		args = append(args, ShellQuote(a.Args[i]))
	}
	return strings.Join(append(args, "--request-id="+ShellQuote(requestID)), " ")
}

// ShellQuote writes s so that a POSIX shell reads it back as one word.
func ShellQuote(s string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=,@%+", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Unknown puts the command to retry under an error whose outcome is unknown;
// other errors pass as they are.
func (a *App) Unknown(err error, requestID string) error {
	code := fault.CodeOutcomeUnknown
	switch fault.KindOf(err) {
	case fault.Unknown:
	case fault.Canceled:
		code = fault.CodeInterrupted
	default:
		return err
	}
	return fault.New(code, "the change may or may not be committed: %w", err).
		WithRemedy("%s\n(the same request id is committed at most once)", a.RetryCommand(requestID))
}
