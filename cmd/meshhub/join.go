package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/ca"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/joining"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/pkg/mtls"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// tokenVariable names the environment variable that may hold the token.
const tokenVariable = "MESHKIT_TOKEN"

type joinOptions struct {
	io                                           *cliutil.IO
	hub, token, tokenFile, pin, data, store      string
	name, listen, metrics, advertise, passphrase string
	timeout                                      time.Duration
	// own is the configuration of the hub that is to serve the domain beside its own;
	// empty: the hub has no other.
	own string
	// domain, if set, is the one that is to be joined.
	domain string
}

func newJoin(io *cliutil.IO) *cobra.Command { return joinCommand(&joinOptions{io: io}) }

func joinCommand(o *joinOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join --hub HOST:PORT --token-file PATH --ca-pin sha256:PIN --data DIR",
		Short: "Add a hub to a domain: keys, certificate, issuing CA, configuration",
		Long: `Join makes the keys of another hub of a domain, spends one use of a hub's token for their certificates, has its config
key listed in the keyset, and writes DIR/meshhub.yaml. Private keys never leave the machine. Any hub of the domain can be
asked. The hub with the keys that admit hubs must be up: the one that init made has them. The command can be repeated after any
failure.

All hubs of a domain share its log, so the store must be one that they all reach: the answer says where it is, unless
--store does. With --store, the log is looked for there before anything is asked or spent.

A hub that serves a domain joins another of the same ring with --data DIR/domains/DOMAIN, where DIR is its own directory: name,
addresses, store and passphrase are those of DIR/meshhub.yaml then, unless flags say otherwise.

"meshctl token create --hub" prints the token and the pin. The token comes from --token, else from the file that
--token-file names, else from $MESHKIT_TOKEN.`,
		Example: `  meshhub join --hub 10.0.0.1:8443 --token-file ./token --ca-pin sha256:PIN --data ./hub2 --listen 10.0.0.2:8443
  meshhub join --hub 10.0.0.1:8443 --token-file ./token --ca-pin sha256:PIN --data ./hub2/domains/eu-central`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "hub", "ca-pin", "data"); err != nil {
				return err
			}
			if err := o.beside(cmd.Flags().Changed); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.hub, "hub", "", "address of a hub that admits hubs, host:port")
	f.StringVar(&o.token, "token", "", "join token for a hub")
	f.StringVar(&o.tokenFile, "token-file", "", "file that holds the join token (default: $MESHKIT_TOKEN)")
	f.StringVar(&o.pin, "ca-pin", "", "pin of the domain's CA, sha256:…")
	f.StringVar(&o.data, "data", "", "directory to make")
	f.StringVar(&o.store, "store", "", "where the log is, as this machine reaches it (default: as the hub that is asked reaches it)")
	f.StringVar(&o.name, "name", "", "name of this hub (default: the last part of --data)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8443", "address of the gRPC port")
	f.StringVar(&o.metrics, "metrics", "127.0.0.1:9443", "address of metrics and health")
	f.StringVar(&o.advertise, "advertise", "", "address at which agents and operators reach the hub (default: --listen)")
	f.StringVar(&o.passphrase, "passphrase-file", "", "seal all private keys but the hub's TLS key with the passphrase in this file")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "give up after this long")
	return cmd
}

// besides gives the configuration of the hub that serves the domain in data beside its
// own; "": data is a hub's own directory.
func besides(data string) (string, error) {
	dir, err := filepath.Abs(data)
	if err != nil {
		return "", fault.New(fault.CodeIO, "find %s: %w", data, err)
	}
	path := filepath.Join(dir, "..", "..", hubdir.ConfigFile)
	if _, err := os.Stat(path); err != nil || filepath.Base(filepath.Dir(dir)) != hubdir.DomainsDir {
		return "", nil
	}
	return path, nil
}

// beside takes what flags do not say from the hub whose directory the new one is in.
func (o *joinOptions) beside(changed func(flag string) bool) error {
	path, err := besides(o.data)
	if err != nil || path == "" {
		return err
	}
	own, err := loadConfig(path)
	if err != nil {
		return err
	}
	o.own = path
	for flag, x := range map[string]struct {
		field *string
		value string
	}{
		"name": {&o.name, own.Name}, "listen": {&o.listen, own.Listen}, "advertise": {&o.advertise, cmp.Or(own.Advertise, own.Listen)},
		"metrics": {&o.metrics, ""}, "store": {&o.store, own.Store.URL}, "passphrase-file": {&o.passphrase, own.Keys.PassphraseFile},
	} {
		if !changed(flag) {
			*x.field = x.value
		}
	}
	return nil
}

// storeFlag is --store as it was given; an empty url: it was not.
type storeFlag struct{ driver, url string }

func (o *joinOptions) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	j, at, err := o.prepare()
	if err != nil {
		return err
	}
	if err := o.apart(ctx); err != nil {
		return err
	}
	if err := o.check(ctx, j.Dir, at); err != nil {
		return err
	}
	domain, err := joining.Join(ctx, j)
	if err != nil {
		return err
	}
	o.io.Donef("hub %s joined domain %s", o.name, domain)
	o.next()
	return nil
}

func (o *joinOptions) next() {
	if o.own != "" {
		o.io.Notef("\nNext: end the hub, and start it again; it serves the domain beside its own:\n  meshhub run --config %s", cliutil.ShellQuote(o.own))
		return
	}
	if cliutil.Loopback(o.advertise) {
		o.io.Notef("Only this machine reaches it at %s: agents and hubs on others do not.", o.advertise)
	}
	o.io.Notef("\nNext:\n  meshhub run --config %s", cliutil.ShellQuote(filepath.Join(o.data, hubdir.ConfigFile)))
}

// prepare checks the flags, before anything is made or asked.
func (o *joinOptions) prepare() (joining.Options, storeFlag, error) {
	dir, err := o.validate()
	if err != nil {
		return joining.Options{}, storeFlag{}, err
	}
	at, err := o.storeFlag()
	if err != nil {
		return joining.Options{}, at, err
	}
	passphrase, err := readPassphrase(o.passphrase)
	return joining.Options{
		Hub: o.hub, Pin: o.pin, Token: o.token, Name: o.name, Address: o.advertise, Dir: dir, Domain: o.domain,
		Drivers: joining.Drivers{
			Keys: func(dir string) (sign.Driver, error) { return builtin.Signer("file", dir, passphrase) },
			CA: func(issuer *x509.Certificate, key crypto.Signer) (ca.Driver, error) {
				return builtin.CA("cfssl", issuer, key, slog.New(slog.DiscardHandler))
			},
			Configure: func(ctx context.Context, domain, driver, url string) ([]byte, error) {
				return o.configure(ctx, domain, at, driver, url)
			},
		},
	}, at, err
}

// validate completes the flags and gives the directory to make.
func (o *joinOptions) validate() (dir string, err error) {
	if err := o.readToken(); err != nil {
		return "", err
	}
	dir, err = filepath.Abs(o.data)
	if err != nil {
		return "", fault.New(fault.CodeIO, "find %s: %w", o.data, err)
	}
	if o.name == "" {
		o.name = strings.ToLower(filepath.Base(dir))
	}
	if o.advertise == "" {
		o.advertise = o.listen
	}
	if err := identity.ValidName(o.name); err != nil {
		return "", usage(fmt.Errorf("--name: %w", err))
	}
	for flag, addr := range map[string]string{"hub": o.hub, "listen": o.listen, "metrics": o.metrics, "advertise": o.advertise} {
		if err := validAddress(addr); err != nil && (flag != "metrics" || addr != "") {
			return "", usage(fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if err := checkAdvertised(o.advertise); err != nil {
		return "", usage(err).WithRemedy("%s", fault.RemedyOf(err))
	}
	if _, port, _ := net.SplitHostPort(o.advertise); port == "0" {
		return "", usage(fmt.Errorf("--advertise: others must know the port of %s", o.advertise))
	}
	_, _, err = mtls.PinnedClientConfig(o.pin)
	return dir, err
}

// storeFlag reads --store.
func (o *joinOptions) storeFlag() (at storeFlag, err error) {
	if o.store == "" {
		return at, nil
	}
	here, err := os.Getwd()
	if err != nil {
		return at, fault.New(fault.CodeIO, "find the working directory: %w", err)
	}
	if at.driver, at.url, err = builtin.StoreDriver(o.store, here); err != nil {
		return at, usage(err)
	}
	if at.url == "" {
		return at, usage(errors.New("--store bolt: a file cannot be shared by hubs"))
	}
	return at, nil
}

// check tells whether the hub that is asked is of the domain whose directory is to be
// made, and whether the store that was given holds its log, before anything is made or
// spent.
func (o *joinOptions) check(ctx context.Context, dir string, at storeFlag) error {
	if at.url == "" && o.own == "" && o.domain == "" {
		return nil
	}
	hub, err := client.WhoIs(ctx, o.hub, o.pin)
	if err != nil {
		return err
	}
	if o.domain != "" && o.domain != hub.Domain {
		return fault.New(fault.CodeJoinAnswer, "hub %s is of domain %s, and %s is to be joined", o.hub, hub.Domain, o.domain)
	}
	if o.own != "" && filepath.Base(dir) != hub.Domain {
		return cliutil.Usagef("--data %s: hub %s is of domain %s, and a hub serves it from a directory of that name", o.data, o.hub, hub.Domain).
			WithRemedy("Give --data %s.", filepath.Join(filepath.Dir(o.data), hub.Domain))
	}
	if at.url == "" {
		return nil
	}
	if err := reachLog(ctx, at.driver, at.url, hub.Domain); err != nil {
		return fmt.Errorf("nothing was asked of hub %s, for --store does not work here: %w", o.hub, err)
	}
	return nil
}

// configure writes the hub's configuration. Without --store the log is where the other
// hubs reach it, which has to work here as well.
func (o *joinOptions) configure(ctx context.Context, domain string, at storeFlag, driver, url string) ([]byte, error) {
	if at.url == "" {
		var err error
		if at.driver, at.url, err = builtin.StoreDriver(url, "/"); err != nil || at.url == "" {
			return nil, fault.New(fault.CodeStoreNotShared, "the log of domain %s is in a store of driver %q, which other hubs cannot reach", domain, driver)
		}
		if err := reachLog(ctx, at.driver, at.url, domain); err != nil {
			return nil, fault.New(fault.CodeStoreUnavailable, "hub %s is admitted, but this machine does not reach the log where the others do: %w", o.name, err).
				WithRemedy("Run the same command again with --store, as this machine reaches it: that spends no further use of the token.")
		}
	}
	return configText(domain, o.name, o.listen, o.advertise, o.metrics, at.driver, at.url, o.passphrase)
}

func (o *joinOptions) readToken() error {
	switch {
	case o.token != "" && o.tokenFile != "":
		return usage(errors.New("--token and --token-file exclude each other"))
	case o.tokenFile != "":
		data, err := durable.ReadFile(durable.OS, o.tokenFile, 4<<10)
		if err != nil {
			return fault.New(fault.CodeJoinArguments, "token file: %w", err)
		}
		o.token = strings.TrimSpace(string(data))
	case o.token == "":
		o.token = strings.TrimSpace(o.io.Env(tokenVariable))
	}
	if o.token == "" {
		return usage(fmt.Errorf("needs --token, --token-file or $%s", tokenVariable))
	}
	return nil
}
