// Command meshctl is the operator's command line. See docs/cli.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshkit/meshkit/pkg/cli"
	"github.com/meshkit/meshkit/pkg/cli/cliutil"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return cli.Run(ctx, cliutil.NewApp(cliutil.SystemIO(), os.Args))
}
