package cli

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/fault"
	"github.com/meshkit/meshkit/pkg/resource"
)

func flagNames(cmd *cobra.Command) []string {
	var names []string
	add := func(f *pflag.Flag) { names = append(names, f.Name) }
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return names
}

// groupHelp is what a command does that only groups others.
func groupHelp(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	err := cliutil.Usagef("unknown command %q for %q", args[0], cmd.CommandPath())
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
			names = append(names, c.Aliases...)
		}
	}
	if near, ok := resource.FindField(args[0], names); ok {
		return err.WithRemedy("did you mean `%s %s`? `%s --help` lists every command", cmd.CommandPath(), near, cmd.CommandPath())
	}
	return err.WithRemedy("`%s --help` lists every command", cmd.CommandPath())
}

// flagError names the nearest flag for an unknown one.
func flagError(cmd *cobra.Command, err error) error {
	wrong := cliutil.Usagef("%v", err)
	name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		return wrong.WithRemedy("`%s --help` shows flags and examples", cmd.CommandPath())
	}
	if near, ok := resource.FindField(name, flagNames(cmd)); ok {
		return wrong.WithRemedy("did you mean --%s? `%s --help` shows every flag", near, cmd.CommandPath())
	}
	return wrong.WithRemedy("`%s --help` shows every flag", cmd.CommandPath())
}

// checkArgs has c say in its own words which arguments it takes.
func checkArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		return
	}
	c.Args = func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if err == nil || fault.CodeOf(err) != "" {
			return err
		}
		_, wants, _ := strings.Cut(strings.TrimSuffix(cmd.Use, " [flags]"), " ")
		switch {
		case len(args) == 0:
			return cliutil.Usagef("%s needs %s", cmd.CommandPath(), wants).WithRemedy("%s", seeHelp(cmd))
		case cmd.Flags().Lookup("filename") != nil:
			return cliutil.Usagef("%s takes no argument %q", cmd.CommandPath(), args[0]).
				WithRemedy("name files with -f: `%s -f %s`", cmd.CommandPath(), args[0])
		case wants == "":
			return cliutil.Usagef("%s takes no argument %q", cmd.CommandPath(), args[0]).WithRemedy("%s", seeHelp(cmd))
		}
		return cliutil.Usagef("%s takes %s, not %d arguments", cmd.CommandPath(), wants, len(args)).WithRemedy("%s", seeHelp(cmd))
	}
}

// seeHelp gives the command's first example and names its help.
func seeHelp(cmd *cobra.Command) string {
	help := "`" + cmd.CommandPath() + " --help` shows flags and examples"
	if example, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n"); example != "" {
		return "like `" + example + "`; " + help
	}
	return help
}

// Messages of cobra about flags that need or exclude each other.
var (
	oneOfFlags   = regexp.MustCompile(`^at least one of the flags in the group \[(.+)\] is required$`)
	clashOfFlags = regexp.MustCompile(`; \[(.+)\] were all set$`)
	missingFlags = regexp.MustCompile(`^required flag\(s\) (.+) not set$`)
)

// usage gives the errors that cobra itself makes the code of wrong usage and the
// words of the other messages. Errors of the commands have a code already.
func usage(cmd *cobra.Command, err error) error {
	if err == nil || fault.CodeOf(err) != "" || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	text := err.Error()
	if m := oneOfFlags.FindStringSubmatch(text); m != nil {
		return cliutil.Usagef("%s needs %s", cmd.CommandPath(), dashed(m[1], " or ")).WithRemedy("%s", seeHelp(cmd))
	}
	if m := clashOfFlags.FindStringSubmatch(text); m != nil {
		return cliutil.Usagef("%s exclude each other", dashed(m[1], " and ")).WithRemedy("give one of them")
	}
	if m := missingFlags.FindStringSubmatch(text); m != nil {
		return cliutil.Usagef("%s needs %s", cmd.CommandPath(), dashed(strings.NewReplacer(`"`, "", ",", "").Replace(m[1]), " and ")).WithRemedy("%s", seeHelp(cmd))
	}
	for _, mark := range []string{"unknown command", "arg(s)", "flag", "accepts", "requires", "invalid argument"} {
		if strings.Contains(text, mark) {
			return cliutil.Usagef("%s", text)
		}
	}
	return err
}

// dashed writes names of flags, separated by spaces, as people give them.
func dashed(names, between string) string {
	return "--" + strings.Join(strings.Fields(names), between+"--")
}
