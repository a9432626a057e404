package change

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/meshkit/meshkit/pkg/api/meshkit/admin/v1"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/client"
	"github.com/meshkit/meshkit/pkg/fault"
)

type deleteOptions struct {
	app        *cliutil.App
	write      writeFlags
	namespace  string
	message    string
	allowLarge bool
	ignore     bool
}

// NewDelete is `meshctl delete`.
func NewDelete(app *cliutil.App) *cobra.Command {
	o := &deleteOptions{app: app}
	cmd := &cobra.Command{
		Use:   "delete KIND/NAME…",
		Short: "Remove resources",
		Long: `Delete removes resources, all of them or none. A resource that others refer to cannot be removed before they are
changed or removed in the same command.`,
		Example: `  meshctl delete route/checkout
  meshctl delete route/checkout cluster/checkout-v1 cluster/checkout-v2 --wait
  meshctl delete policy/payments/limits --dry-run`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	o.write.register(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&o.namespace, "namespace", "n", "", "namespace of names that give none")
	fl.StringVarP(&o.message, "message", "m", "", "why, for the history")
	fl.BoolVar(&o.allowLarge, "allow-large-change", false, "permit removing more of the mesh than DomainSettings allow")
	fl.BoolVar(&o.ignore, "ignore-not-found", false, "leave out what does not exist, instead of failing")
	return cmd
}

func (o *deleteOptions) run(cmd *cobra.Command, args []string) error {
	format, id, err := o.write.begin(o.app)
	if err != nil {
		return err
	}
	keys, err := o.keys(args)
	if err != nil {
		return err
	}
	c, err := o.app.Connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := o.app.Deadline(cmd.Context())
	defer cancel()
	if keys, err = o.existing(ctx, c, keys); err != nil {
		return err
	}
	if len(keys) == 0 {
		o.app.IO.Notef("nothing to do: none of them exists")
		return nil
	}
	change := &adminv1.Change{Deletes: keys, FieldManager: fieldManager, AllowLargeChange: o.allowLarge, Message: o.message}
	resp, err := (&Input{}).commit(ctx, o.app, c, &adminv1.ApplyRequest{Change: change, RequestId: id, DryRun: o.write.dryRun})
	if err != nil {
		return err
	}
	return finish(cmd.Context(), o.app, c, format, outcome{verb: "deleted", resp: resp, doc: cliutil.ProtoJSON(resp), write: o.write})
}

func (o *deleteOptions) keys(args []string) ([]*adminv1.Key, error) {
	if len(args) == 2 && !strings.Contains(args[0], "/") && !strings.Contains(args[1], "/") {
		args = []string{args[0] + "/" + args[1]} // KIND NAME, as get takes it
	}
	var keys []*adminv1.Key
	for _, arg := range args {
		ref, err := cliutil.ParseRef([]string{arg}, o.namespace)
		if err != nil {
			return nil, err
		}
		if ref.Descriptor == nil || ref.Name == "" {
			return nil, cliutil.Usagef("%q is not a resource: want KIND/NAME (agents are forgotten with `meshctl agent forget`, tokens revoked with `meshctl token revoke`)", arg)
		}
		keys = append(keys, cliutil.WireKey(ref.Key()))
	}
	return keys, nil
}

// existing asks for each resource, so that a wrong name is told by name.
func (o *deleteOptions) existing(ctx context.Context, c *client.Client, keys []*adminv1.Key) ([]*adminv1.Key, error) {
	var there []*adminv1.Key
	var missing []error
	for _, k := range keys {
		_, err := c.Get(ctx, k)
		switch {
		case err == nil:
			there = append(there, k)
		case fault.KindOf(err) != fault.NotFound:
			return nil, err
		case !o.ignore:
			missing = append(missing, err)
		}
	}
	if len(missing) > 0 {
		return nil, errors.Join(missing...)
	}
	return there, nil
}
