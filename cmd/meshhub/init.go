package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/founding"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/identity"
	"github.com/meshkit/meshkit/plugins/builtin"
)

// maxRootKeys bounds the keys of a root of trust: each has a keeper.
const maxRootKeys = 16

type initOptions struct {
	domain, data, store, listen, metrics, advertise, name, passphrase string
	rootKeys, rootThreshold                                           int
}

func newInit() *cobra.Command {
	o := &initOptions{}
	cmd := &cobra.Command{
		Use:   "init --domain NAME --data DIR",
		Short: "Make a new domain: keys, root of trust, CA, store, admin credentials, configuration",
		Long: `Init makes everything that a domain's first hub needs in one directory, and prints what to do next. It refuses a
directory that is not empty and changes nothing else. The configuration is written last: without it the directory is no hub.`,
		Example: `  meshhub init --domain eu-west --data ./hub
  meshhub init --domain eu-west --store "consul://127.0.0.1:8501/meshkit?dc=dc1" --data ./hub1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "domain", "data"); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.domain, "domain", "", "trust domain, like eu-west")
	f.StringVar(&o.data, "data", "", "directory to make")
	f.StringVar(&o.store, "store", "bolt", "where the log is: bolt (a file in --data), or consul://HOST:PORT/PREFIX?dc=NAME&token-file=PATH")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8443", "address of the gRPC port")
	f.StringVar(&o.metrics, "metrics", "127.0.0.1:9443", "address of metrics and health")
	f.StringVar(&o.advertise, "advertise", "", "address at which agents and operators reach the hub (default: --listen)")
	f.StringVar(&o.name, "name", "hub1", "name of this hub")
	f.StringVar(&o.passphrase, "passphrase-file", "", "seal all private keys but the hub's TLS key with the passphrase in this file")
	f.IntVar(&o.rootKeys, "root-keys", 1, "number of root keys")
	f.IntVar(&o.rootThreshold, "root-threshold", 1, "root keys needed to change the root of trust")
	return cmd
}

// validate checks the flags before anything is made.
func (o *initOptions) validate() error {
	if err := identity.ValidDomain(o.domain); err != nil {
		return usage(err)
	}
	if err := identity.ValidName(o.name); err != nil {
		return usage(err)
	}
	for flag, addr := range map[string]string{"listen": o.listen, "metrics": o.metrics, "advertise": o.advertise} {
		if err := validAddress(addr); err != nil && (flag == "listen" || addr != "") {
			return usage(fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if err := checkAdvertised(o.address()); err != nil {
		return usage(err).WithRemedy("%s", fault.RemedyOf(err))
	}
	if o.rootKeys < 1 || o.rootKeys > maxRootKeys || o.rootThreshold < 1 || o.rootThreshold > o.rootKeys {
		return usage(fmt.Errorf("--root-threshold %d of --root-keys %d: want 1 to %d keys and a threshold of at most that", o.rootThreshold, o.rootKeys, maxRootKeys))
	}
	return nil
}

func (o *initOptions) run(ctx context.Context, out io.Writer) error {
	if err := o.validate(); err != nil {
		return err
	}
	dir, err := filepath.Abs(o.data)
	if err != nil {
		return fault.New(fault.CodeIO, "find %s: %w", o.data, err)
	}
	here, err := os.Getwd()
	if err != nil {
		return fault.New(fault.CodeIO, "find the working directory: %w", err)
	}
	driver, url, err := builtin.StoreDriver(o.store, here)
	if err != nil {
		return usage(err)
	}
	passphrase, err := readPassphrase(o.passphrase)
	if err != nil {
		return err
	}
	text, err := configText(o.domain, o.name, o.listen, o.advertise, o.metrics, driver, url, o.passphrase)
	if err != nil {
		return err
	}
	pin, err := founding.Found(ctx, founding.Options{
		Domain: o.domain, Hub: o.name, Dir: dir, Listen: o.listen, Address: o.address(), Config: text,
		RootKeys: o.rootKeys, RootThreshold: o.rootThreshold, Drivers: foundingDrivers(o.domain, dir, driver, url, passphrase),
	})
	if err != nil {
		return err
	}
	o.nextSteps(out, pin, url != "")
	return nil
}

// address is where others reach the hub.
func (o *initOptions) address() string { return cmp.Or(o.advertise, o.listen) }

// nextSteps says how to go on; shared: the log is in a store that other hubs reach.
func (o *initOptions) nextSteps(out io.Writer, pin string, shared bool) {
	reach := ""
	if cliutil.Loopback(o.address()) {
		reach = "\n     Only this machine reaches it at " + o.address() + ". For others, set listen in meshhub.yaml first."
	}
	dir := o.data
	hub := o.address()
	fmt.Fprintf(out, `Domain %[1]s is ready in %[2]s.

CA pin       %[3]s
Root keys    %[4]d, of which %[5]d change the root of trust

Next:
  1. Take the root keys and the CA's root key offline; the hub runs without them:
       %[6]s
       %[7]s
     Keep a copy of the keys that admit further hubs, should this one be lost:
       %[11]s
       %[12]s
  2. Run the hub:
       meshhub run --config %[8]s%[13]s
  3. Point meshctl at it:
       export MESHKIT_CONFIG=%[9]s
       meshctl get domain
  4. Admit a node:
       meshctl token create --label region=eu --ttl 1h --uses 1
       meshagent join --hub %[10]s --token TOKEN --ca-pin %[3]s --data ./agent
       meshagent run --config ./agent/meshagent.yaml
`, o.domain, dir, pin, o.rootKeys, o.rootThreshold,
		filepath.Join(dir, "root", "root-*.key"), filepath.Join(dir, "ca", "root.key"),
		filepath.Join(dir, "meshhub.yaml"), filepath.Join(dir, "admin", "context.yaml"), hub,
		filepath.Join(dir, "keys", keyring.KeysetKey+".key"), filepath.Join(dir, "ca", hubdir.HubCA+".key"), reach)
	if shared {
		fmt.Fprintf(out, `  5. Add hubs, on their machines, which then take over when one is lost:
       meshctl token create --hub --uses 2
       meshhub join --hub %s --token TOKEN --ca-pin %s --data ./hub2
     "meshctl get hubs" lists them, and "meshctl get domains -o wide" says who leads.
`, hub, pin)
	}
}
