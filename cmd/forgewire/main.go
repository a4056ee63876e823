// Command forgewire is the whole of Forgewire in one binary: `forgewire serve` is one replica, `forgewire
// dev` a complete cluster on this machine. `forgewire --help` lists the rest.
//
// Exit codes: 0 done, 1 failed (the last line on stderr says why and what to do), 2 wrong usage or
// configuration, 3 `bench compare` found that something is worse.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"forgewire/infra/config"
)

// version is set by the linker; see the Makefile.
var version = "dev"

const (
	exitFailed = 1
	exitUsage  = 2
	exitWorse  = 3
)

type cli struct {
	Serve   serveCommand   `cmd:"" help:"Run one replica, configured by the environment."`
	Dev     devCommand     `cmd:"" help:"Run a complete cluster on this machine: a private Postgres, two replicas, a load balancer and a page."`
	Migrate migrateCommand `cmd:"" help:"Bring the database's schema up to date."`
	Logs    logsCommand    `cmd:"" help:"The set of logs over which channels are spread."`
	Publish publishCommand `cmd:"" help:"Publish a message on a channel."`
	Tail    tailCommand    `cmd:"" help:"Print a channel's messages as they come."`
	Token   tokenCommand   `cmd:"" help:"Sign a connection token, for tests."`
	Key     keyCommand     `cmd:"" help:"Create, list and revoke the API keys of /v1."`
	Bench   benchCommand   `cmd:"" help:"Measure."`
	Health  healthCommand  `cmd:"" help:"Ask whether the replica on this machine is well."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends ctx, and everything stops in order; the second has its usual effect at once.
	context.AfterFunc(ctx, stop)

	parser, err := kong.New(&cli{}, kong.Name("forgewire"),
		kong.Description("Push, cache and serve at the edge, with Postgres as the only thing it must have."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		return failed(err)
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "forgewire: %v\nRun `forgewire --help` for what it takes.\n", err)
		return exitUsage
	}
	if err = command.Run(); err != nil && ctx.Err() == nil || errors.As(err, new(config.Mistakes)) {
		return failed(err)
	}
	return 0
}

func failed(err error) int {
	fmt.Fprintf(os.Stderr, "forgewire: %v\n", err)
	if errors.As(err, new(config.Mistakes)) {
		return exitUsage
	}
	if errors.Is(err, errWorse) {
		return exitWorse
	}
	return exitFailed
}
