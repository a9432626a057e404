package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

// Reference is docs/cli.md: conventions, exit codes, and every command with its
// flags and examples, in Markdown. A test holds the file to it.
func Reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(referenceHead)
	b.WriteString("| code | name | meaning |\n|---|---|---|\n")
	for _, m := range cliutil.ExitMeanings {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", m.Code, m.Short, m.Meaning)
	}
	b.WriteString(referenceOutput)
	b.WriteString("## Flags of every command\n\n")
	b.WriteString(flagTable(root.PersistentFlags()))
	b.WriteString("\n## Commands\n")
	forEach(root, func(c *cobra.Command) {
		if c == root || !c.IsAvailableCommand() || c.Name() == "help" {
			return
		}
		describeCommand(&b, c)
	})
	return b.String()
}

const referenceHead = `# meshctl

Written by ` + "`go test ./pkg/cli -run Reference -update`" + ` from the commands themselves; do not edit by hand.

stdout is data, stderr is for people: tables, JSON and YAML go to stdout, progress, summaries and errors to stderr. Colour
is used on terminals only, and never with NO_COLOR set. On a terminal, what does not fit into a row of a table stands below it. Text
that came from files or over the network is shown with control and bidirectional characters escaped.

## Which hub, and as whom

Each of hub address, CA file, certificate and key comes from its flag, else from its environment variable (MESHKIT_HUB,
MESHKIT_CA_FILE, MESHKIT_CERT_FILE, MESHKIT_KEY_FILE), else from the context that --context, MESHKIT_CONTEXT or the file's
currentContext names. Contexts are kept in $MESHKIT_CONFIG, else in meshkit/config.yaml in the user's configuration
directory; paths in the file are relative to it:

    currentContext: eu-west
    contexts:
    - name: eu-west
      hub: 127.0.0.1:8443
      domain: eu-west
      caFile: ca.pem
      certFile: admin.pem
      keyFile: admin.key

A hub may be several, of one domain, separated by commas: ` + "`hub: 10.0.0.1:8443,10.0.0.2:8443`" + `, and likewise in --hub and MESHKIT_HUB. The
first that a connection comes about to is asked; when it is lost, or that hub is starting, they are tried again in that order.
Each is checked to be a hub of the domain. ` + "`meshctl context sync`" + ` takes the addresses of the domain's hubs into a context; no other command changes them.

When nothing names a hub and there are no contexts, the hub that ` + "`meshhub init --data ./hub`" + ` made in the working directory
is used (hub/admin/context.yaml or admin/context.yaml, if the caller owns it and no one else may write it), and a note says so.

## Exit codes

`

const referenceOutput = `
## Errors

    error[MK2401]: what happened, where and why
      fix: what to do about it

Findings in files say where, in the form that editors jump to:

    mesh/checkout.yaml:24:17: error[MK2401]: route/checkout spec.rules[1].clusters[0].name: …
      fix: …

` + "`meshctl explain CODE`" + ` says more about each code.

## Output formats

` + "`-o table`" + ` (the default) and ` + "`wide`" + ` are for people. The others are stable:

- ` + "`json`, `yaml`" + `: one named thing is an object, a list is ` + "`{\"items\": […]}`" + `. Resources are printed as they stand in files (a list in YAML as documents, so that it can be applied),
  with generation, resourceVersion, createdAt and updatedAt added to metadata. Apply reads past these but resourceVersion: it refuses
  a resource that was changed since it was printed (MK6006). To apply a file whatever happened since, as after a loss, take that
  out: ` + "`grep -v '^  resourceVersion: ' FILE > NEWFILE`" + ` does so in YAML. Everything else has
  the fields of the admin API (meshkit.admin.v1) in lowerCamelCase: every field is present, absent objects are null, numbers
  are numbers, times RFC 3339, durations like "1.5s", enums their last word in lower case ("active"), digests hex, other
  bytes base64. A domain has "streams" and "problem" besides, and what a hub does not tell of it is null: of a domain that it serves
  beside the one that was asked, counts, versions and the digest; of that one, the streams.
- ` + "`jsonpath=EXPRESSION`" + `: RFC 9535 over that JSON, one match a line; ` + "`{.items[*].node}` is read as `$.items[*].node`" + `.
- ` + "`name`" + `: one name a line, as arguments take it (` + "`route/checkout`" + `).

` + "`describe`" + ` of a resource prints ` + "`{resource, referredToBy, refersTo, policies, agents, agentsTotal, owners, changes}`" + `; of an agent, hub or
domain, the object of the admin API. ` + "`validate -o json`" + ` prints ` + "`{valid, findings: [{code, severity, resource, field, position: {file, line, column}, reason, remedy}]}`" + `.

With ` + "`--watch`" + `, ` + "`json`" + ` prints one object a line: ` + "`{\"event\": \"upsert\" or \"delete\", \"seq\": N, \"resource\": {…}}`" + ` for
resources, the object itself for agents, hubs, domains and tokens.

`

func describeCommand(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, "\n### %s\n\n%s.\n\n    %s\n", c.CommandPath(), strings.TrimSuffix(c.Short, "."), c.UseLine())
	if len(c.Aliases) > 0 {
		fmt.Fprintf(b, "\nAlso: %s\n", strings.Join(c.Aliases, ", "))
	}
	long := c.Long
	if c.Parent() != nil && c.Parent().Name() == "completion" {
		long = "" // cobra's own text, the same for every program
	}
	if long != "" {
		fmt.Fprintf(b, "\n%s\n", long)
	}
	if t := flagTable(c.NonInheritedFlags()); t != "" {
		b.WriteString("\n" + t)
	}
	if c.Example != "" {
		b.WriteString("\nExamples:\n\n")
		for _, l := range strings.Split(c.Example, "\n") {
			b.WriteString("    " + strings.TrimSpace(l) + "\n")
		}
	}
}

func flagTable(fs *pflag.FlagSet) string {
	var b strings.Builder
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		def := f.DefValue
		if def == "" || def == "false" || def == "[]" || def == "0" {
			def = ""
		} else {
			def = " (default " + def + ")"
		}
		fmt.Fprintf(&b, "| `%s` | %s%s |\n", name, strings.ReplaceAll(f.Usage, "|", `\|`), def)
	})
	if b.Len() == 0 {
		return ""
	}
	return "| flag | meaning |\n|---|---|\n" + b.String()
}
