package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/rotation"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/plugins/builtin"
)

func newKey() *cobra.Command {
	var data, passphrase string
	cmd := &cobra.Command{
		Use:     "key --data DIR",
		Short:   "List the private keys in a hub's directory by name and id",
		Long:    "Key lists the root, keyset and config keys that a hub's directory holds. It prints no secret and works while the hub runs.",
		Example: "  meshhub key --data ./hub",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "data"); err != nil {
				return err
			}
			secret, err := readPassphrase(passphrase)
			if err != nil {
				return err
			}
			return listKeys(cmd.Context(), cmd.OutOrStdout(), data, secret)
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the hub's directory")
	cmd.Flags().StringVar(&passphrase, "passphrase-file", "", "file with the passphrase that seals the keys")
	return cmd
}

func listKeys(ctx context.Context, out io.Writer, data string, passphrase []byte) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tALGORITHM\tID")
	for _, dir := range []string{"root", "keys"} {
		names, err := hubdir.KeyNames(filepath.Join(data, dir))
		if err != nil {
			return err
		}
		d, err := builtin.Signer("file", filepath.Join(data, dir), passphrase)
		if err != nil {
			return err
		}
		for _, name := range names {
			k, err := sign.Open(ctx, d, name)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", filepath.Join(dir, name), k.Algorithm(), k.KeyID())
		}
	}
	return w.Flush()
}

func newRootKeys() *cobra.Command {
	root := &cobra.Command{
		Use:   "root",
		Short: "Work with the offline root of trust",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newRootRotate())
	return root
}

type rotateOptions struct {
	data, passphrase, from string
	keep                   bool
	newKeyset              bool
	metadata, hubKeys      string
	keys, threshold        int
	years                  int
}

func newRootRotate() *cobra.Command {
	o := &rotateOptions{}
	cmd := &cobra.Command{
		Use:   "rotate --data DIR",
		Short: "Make the next root of trust with new root keys",
		Long: `Rotate makes the root metadata after the newest in DIR/root, signed by the root keys there and by new ones that take
their place. It needs no hub and no network: run it where the root keys are kept, then hand the file to
"meshctl trust publish". Agents follow it without a restart. With --keep-keys only the expiry is renewed.

--new-keyset-key also replaces the key that signs keysets: when it leaked, was lost, or by custom. It needs what
"meshctl trust show --save" wrote just before, since the present keyset is signed again with the new key, and it puts the new
key into the hub's keys directory, where a running hub finds it. The old key file stays beside it under another name.
Publish root and keyset in one call: neither is accepted without the other. Change no hub's key between saving and publishing.`,
		Example: "  meshhub root rotate --data ./hub\n  meshctl trust publish --root ./hub/root/root-2.json --reason \"yearly rotation\"\n  meshctl trust show --save ./trust\n  meshhub root rotate --data ./hub --new-keyset-key --metadata ./trust",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "data"); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "directory that holds root/ with keys and metadata")
	f.StringVar(&o.from, "from", "", "newest root metadata (default: the newest in DIR/root)")
	f.StringVar(&o.passphrase, "passphrase-file", "", "file with the passphrase that seals the keys")
	f.BoolVar(&o.keep, "keep-keys", false, "renew the expiry and keep the keys")
	f.BoolVar(&o.newKeyset, "new-keyset-key", false, "also replace the key that signs keysets; needs --metadata")
	f.StringVar(&o.metadata, "metadata", "", "directory that meshctl trust show --save wrote, for --new-keyset-key")
	f.StringVar(&o.hubKeys, "hub-keys", "", "the hub's keys directory, for --new-keyset-key (default: DIR/keys)")
	f.IntVar(&o.keys, "root-keys", 0, "number of new root keys (default: as many as before)")
	f.IntVar(&o.threshold, "root-threshold", 0, "root keys needed from then on (default: as before)")
	f.IntVar(&o.years, "years", 5, "life of the new root, in years")
	return cmd
}

func (o *rotateOptions) run(ctx context.Context, out io.Writer) error {
	if o.years < 1 || o.years > 20 {
		return usage(fmt.Errorf("--years %d is not from 1 to 20", o.years))
	}
	if o.keys < 0 || o.keys > maxRootKeys || o.threshold < 0 || o.threshold > maxRootKeys {
		return usage(fmt.Errorf("--root-threshold %d of --root-keys %d: want at most %d keys and a threshold of at most that", o.threshold, o.keys, maxRootKeys))
	}
	if o.keep && (o.keys != 0) {
		return usage(errors.New("--keep-keys makes no new keys: --root-keys has nothing to say"))
	}
	if o.newKeyset != (o.metadata != "") {
		return usage(errors.New("--new-keyset-key and --metadata go together; `meshctl trust show --save DIR` writes the metadata"))
	}
	opt := rotation.Options{
		Dir: filepath.Join(o.data, "root"), From: o.from, Keys: sealedKeys(o.passphrase),
		KeepKeys: o.keep, RootKeys: o.keys, RootThreshold: o.threshold, Expires: time.Now().AddDate(o.years, 0, 0),
	}
	if o.newKeyset {
		opt.Keyset = &rotation.KeysetOptions{HubKeys: cmp.Or(o.hubKeys, filepath.Join(o.data, "keys")), Metadata: o.metadata}
	}
	made, err := rotation.Rotate(ctx, opt)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Root version %d is in %s, good for %d years.\n", made.Version, made.File, o.years)
	afterRotation(out, o.data, made)
	return nil
}

// afterRotation says what to do with the new files. Those of a domain that a hub serves
// beside its own are of no use in the current context.
func afterRotation(out io.Writer, data string, made rotation.Result) {
	publish := "meshctl trust publish --root " + cliutil.ShellQuote(made.File)
	if own, err := besides(data); err == nil && own != "" {
		if c, err := loadConfig(filepath.Join(data, hubdir.ConfigFile)); err == nil {
			publish = "meshctl --context " + c.Domain + strings.TrimPrefix(publish, "meshctl")
		}
	}
	if made.Keyset != nil {
		publish += " --keyset " + cliutil.ShellQuote(made.Keyset.File)
	}
	fmt.Fprintf(out, "\nNext:\n  %s\n", publish)
	if ks := made.Keyset; ks != nil {
		fmt.Fprintf(out, "The new keyset key %s is in %s; the hub cannot change the keyset until that is published. The old key, if there was one: %s\n",
			ks.KeyID(), ks.KeyFile(), ks.OldKeyFile())
	}
	if len(made.Fresh) > 0 {
		fmt.Fprintln(out, "Then keep the new keys offline; once every agent has followed, the old ones can be destroyed:")
		for _, k := range made.Old {
			fmt.Fprintf(out, "  old  %s\n", k.KeyID())
		}
		for _, k := range made.Fresh {
			fmt.Fprintf(out, "  new  %s\n", k.KeyID())
		}
	}
}
