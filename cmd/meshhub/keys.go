package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/hub/hubdir"
	"github.com/meshkit/meshkit/pkg/hub/keyring"
	"github.com/meshkit/meshkit/pkg/sign"
	"github.com/meshkit/meshkit/pkg/trust"
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
	if o.newKeyset != (o.metadata != "") {
		return usage(errors.New("--new-keyset-key and --metadata go together; `meshctl trust show --save DIR` writes the metadata"))
	}
	dir := filepath.Join(o.data, "root")
	path, err := o.newest(dir)
	if err != nil {
		return err
	}
	prev, err := os.ReadFile(path)
	if err != nil {
		return fault.New(fault.CodeIO, "read the root metadata: %w", err)
	}
	info, err := trust.InspectRoot(prev)
	if err != nil {
		return err
	}
	passphrase, err := readPassphrase(o.passphrase)
	if err != nil {
		return err
	}
	d, err := builtin.Signer("file", dir, passphrase)
	if err != nil {
		return err
	}
	old, err := o.present(ctx, d, dir, info)
	if err != nil {
		return err
	}
	change := trust.RootChange{RootThreshold: o.threshold, Expires: time.Now().AddDate(o.years, 0, 0)}
	signers, fresh := old, []*sign.Signer(nil)
	if !o.keep {
		if fresh, err = o.create(ctx, d, info); err != nil {
			return err
		}
		change.RemoveRootKeys = info.KeyIDs
		for _, k := range fresh {
			change.AddRootKeys = append(change.AddRootKeys, k.Public())
		}
		signers = append(signers, fresh...)
	}
	var ks *keysetRotation
	if o.newKeyset {
		if ks, err = o.newKeysetRotation(ctx, passphrase, info.Version+1); err != nil {
			return err
		}
		change.AddKeysetKeys, change.RemoveKeysetKeys = []sign.PublicKey{ks.key.Public()}, info.KeysetKeyIDs
		change.KeysetThreshold = 1
	}
	next, err := trust.RotateRoot(prev, change, signers...)
	if err != nil {
		return err
	}
	target := filepath.Join(dir, hubdir.RootFile(info.Version+1))
	if ks != nil {
		if err := ks.install(prev, next, dir); err != nil {
			return err
		}
	}
	// The root comes last: a crash before it leaves a rotation that can be run again.
	if err := durable.WriteFile(durable.OS, target, next, 0o644); err != nil {
		return fault.New(fault.CodeIO, "write the root metadata: %w", err)
	}
	fmt.Fprintf(out, "Root version %d is in %s, good for %d years.\n", info.Version+1, target, o.years)
	afterRotation(out, target, ks, old, fresh)
	return nil
}

// afterRotation says what to do with the new files.
func afterRotation(out io.Writer, root string, ks *keysetRotation, old, fresh []*sign.Signer) {
	publish := "meshctl trust publish --root " + root
	if ks != nil {
		publish += " --keyset " + ks.target
	}
	fmt.Fprintf(out, "\nNext:\n  %s\n", publish)
	if ks != nil {
		fmt.Fprintf(out, "The new keyset key %s is in %s; the hub cannot change the keyset until that is published. The old key, if there was one: %s\n",
			ks.key.KeyID(), ks.path(keyring.KeysetKey), ks.path(ks.aside()))
	}
	if len(fresh) > 0 {
		fmt.Fprintln(out, "Then keep the new keys offline; once every agent has followed, the old ones can be destroyed:")
		for _, k := range old {
			fmt.Fprintf(out, "  old  %s\n", k.KeyID())
		}
		for _, k := range fresh {
			fmt.Fprintf(out, "  new  %s\n", k.KeyID())
		}
	}
}

// newest finds the newest root metadata in dir.
func (o *rotateOptions) newest(dir string) (string, error) {
	if o.from != "" {
		return o.from, nil
	}
	versions, err := hubdir.Roots(dir)
	if err != nil {
		return "", err
	}
	best := uint64(0)
	if len(versions) > 0 {
		best = versions[len(versions)-1]
	}
	if best == 0 {
		return "", fault.New(fault.CodeConfig, "%s holds no root-N.json", dir).WithRemedy("Save it with `meshctl trust show --save DIR` and name it with --from.")
	}
	return filepath.Join(dir, hubdir.RootFile(best)), nil
}

// present opens the root keys in the directory that the root lists.
func (o *rotateOptions) present(ctx context.Context, d sign.Driver, dir string, info trust.RootInfo) ([]*sign.Signer, error) {
	names, err := hubdir.KeyNames(dir)
	if err != nil {
		return nil, err
	}
	var out []*sign.Signer
	for _, name := range names {
		k, err := sign.Open(ctx, d, name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(info.KeyIDs, k.KeyID()) {
			out = append(out, k)
		}
	}
	if len(out) < info.Threshold {
		return nil, fault.New(fault.CodeRootUnsigned, "%s holds %d of the root keys, and %d are needed", dir, len(out), info.Threshold).
			WithRemedy("Bring the missing root-*.key files together in %s.", dir)
	}
	return out, nil
}

func (o *rotateOptions) create(ctx context.Context, d sign.Driver, info trust.RootInfo) ([]*sign.Signer, error) {
	n := o.keys
	if n == 0 {
		n = len(info.KeyIDs)
	}
	var out []*sign.Signer
	for i := range n {
		name := fmt.Sprintf("root-v%d-%d", info.Version+1, i+1)
		k, err := sign.Create(ctx, d, name, sign.Ed25519)
		if fault.CodeOf(err) == fault.CodeKeyExists { // from a try that did not get further
			k, err = sign.Open(ctx, d, name)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}
