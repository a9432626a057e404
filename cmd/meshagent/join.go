package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshkit/meshkit/pkg/agent/join"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

func newJoin(io *cliutil.IO) *cobra.Command {
	var r join.Request
	var tokenFile string
	c := &cobra.Command{
		Use:   "join --hub HOST:PORT --token-file PATH --ca-pin sha256:PIN --data DIR",
		Short: "Join a domain: get a certificate and write the configuration",
		Long: `Make a key, spend one use of the token for a certificate, pin the domain's root of
trust, and write DIR/meshagent.yaml. The key never leaves the node. The command can
be repeated after any failure; a repetition does not spend a second use.

"meshctl token create" prints the token and the pin. The token comes from --token, else
from the file that --token-file names, else from $MESHKIT_TOKEN. Other users of the
machine can see --token in the list of processes while the command runs.`,
		Example: `  meshagent join --hub 10.0.0.1:8443 --token TOKEN --ca-pin sha256:PIN --data ./agent
  meshagent join --hub 10.0.0.1:8443 --token-file ./token --ca-pin sha256:PIN --data /var/lib/meshagent \
      --node edge-7 --socket /run/meshagent.sock --listen 127.0.0.1:15000`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := required(c, "hub", "ca-pin", "data"); err != nil {
				return err
			}
			token, err := joinToken(io, r.Token, tokenFile)
			if err != nil {
				return err
			}
			if token == "" {
				return cliutil.Usagef("%s needs --token, --token-file or $%s", c.CommandPath(), tokenVariable)
			}
			r.Token = token
			if r.Node == "" {
				r.Node = hostName()
			}
			got, err := join.Join(c.Context(), r)
			if err != nil {
				return err
			}
			io.Donef("node %s joined domain %s; its certificate is valid until %s and renews itself", got.Node, got.Domain, got.NotAfter.Format(time.RFC3339))
			io.Notef("\nNext:\n  meshagent run --config %s", cliutil.ShellQuote(display(got.Config)))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&r.Hub, "hub", "", "address of any hub, host:port")
	f.StringVar(&r.Token, "token", "", "join token")
	f.StringVar(&tokenFile, "token-file", "", "file that holds the join token (default: $MESHKIT_TOKEN)")
	f.StringVar(&r.Pin, "ca-pin", "", "pin of the domain's CA, sha256:…")
	f.StringVar(&r.Dir, "data", "", "directory for identity, trust and last-known-good")
	f.StringVar(&r.Node, "node", "", "name of this node (default: the host's name)")
	f.StringVar(&r.Listen, "listen", "127.0.0.1:0", "loopback address that re-serves configuration over mutual TLS; empty: none")
	f.StringVar(&r.Metrics, "metrics", "127.0.0.1:0", "address of /metrics, /healthz and /readyz; empty: none")
	f.StringVar(&r.Socket, "socket", "", "Unix socket (default DIR/agent.sock)")
	f.DurationVar(&r.Timeout, "timeout", join.DefaultTimeout, "give up after this long")
	return c
}

// hostName is the host's name as a node name, as far as it can be one.
func hostName() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.ReplaceAll(h, "_", "-"))
}

// display shortens a path below the working directory.
func display(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
