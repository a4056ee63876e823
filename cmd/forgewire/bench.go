package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"forgewire/cmd/forgewire/bench"
	"forgewire/infra/config"
)

type benchCommand struct {
	Fanout benchFanout `cmd:"" help:"Publish over HTTP, receive over WebSocket; beside it the floor, without either."`
	SQL    benchSQL    `cmd:"" name:"sql" help:"What publishing costs a transaction of one's own."`

	Connections benchConnections `cmd:"" help:"What thousands of connections take, beside the peer's."`
	Broadcast   benchBroadcast   `cmd:"" help:"How fast a message reaches thousands of clients, beside the peer."`
	Resume      benchResume      `cmd:"" help:"How fast clients that come back have what they missed, beside the peer."`
	Presence    benchPresence    `cmd:"" help:"Joining, leaving and asking who is there, beside the peer."`
	Loader      benchLoader      `cmd:"" hidden:"" help:"A process of clients, for the other benchmarks."`
	LLM         benchLLM         `cmd:"" name:"llm" help:"The LLM endpoint before a fake model, beside the model itself and a naive cache."`
	HTTP        benchHTTP        `cmd:"" name:"http" help:"The resources of /v1 at rising rates, beside a bare net/http and pgx handler."`
	Floor       benchFloor       `cmd:"" hidden:"" help:"That handler."`
}

type benchFanout struct {
	Publishers  int           `default:"64" help:"How many publish at once; one is measured too."`
	Subscribers int           `default:"0" help:"How many receive; 0 for one a replica."`
	Duration    time.Duration `default:"10s" help:"Of each measurement."`
	Rounds      int           `default:"2" help:"In how many parts, in which the floor and the whole take turns."`
	Size        int           `default:"150" help:"Of a message's data, in bytes."`
	Replicas    int           `default:"2" help:"How many to start."`
	Channels    int           `default:"1" help:"Over how many the publishers are spread."`
	Idle        bool          `help:"Measure also the CPU time of an idle replica, over 10 s."`
	URL         []string      `name:"url" help:"Of a running deployment to measure; once for each replica, or the load balancer's."`
	APIKey      string        `name:"api-key" help:"Of that deployment; else FORGEWIRE_API_KEY."`
	Token       string        `help:"Of its subscribers, if it has no anonymous ones."`
	JSON        string        `name:"json" type:"path" placeholder:"FILE" help:"Write the figures there too."`
}

func (benchFanout) Help() string {
	return "Starts a private PostgreSQL and the replicas, each a process of its own, unless --url is given. " +
		"The generator shares the CPUs with them: trust the ratios, not the figures of another machine."
}

const (
	benchWarmup = time.Second
	benchIdle   = 10 * time.Second
)

func (c *benchFanout) Run(ctx context.Context) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cfg := bench.FanoutConfig{
		Publishers: c.Publishers, Subscribers: c.Subscribers, Replicas: c.Replicas, Channels: c.Channels, Size: c.Size,
		Duration: c.Duration, Warmup: benchWarmup, Rounds: c.Rounds,
		Binary: binary, Environ: os.Environ(), Progress: os.Stderr,
		URLs: c.URL, APIKey: c.APIKey, Token: c.Token,
	}
	if c.Idle {
		cfg.Idle = benchIdle
	}
	if len(c.URL) > 0 && c.APIKey == "" {
		env, err := config.LoadOnly(os.Environ(), "FORGEWIRE_API_KEY")
		if err != nil {
			return err
		}
		cfg.APIKey = env.APIKey.Reveal()
	}
	report, err := bench.Fanout(ctx, cfg)
	if err != nil {
		return err
	}
	return writeReport(report, c.JSON)
}

type benchSQL struct {
	Writers     int           `default:"32" help:"How many transactions at once."`
	Rounds      int           `default:"5" help:"How often each case is measured; the cases take turns."`
	Slice       time.Duration `default:"3s" help:"How long each time, in whole seconds."`
	DatabaseURL string        `name:"database-url" help:"A migrated database, in which tables are made and dropped; else a private one."`
	JSON        string        `name:"json" type:"path" placeholder:"FILE" help:"Write the figures there too."`
}

func (benchSQL) Help() string {
	return "Needs pgbench. A replica runs beside it and moves what is published to a subscriber at the same time."
}

func (c *benchSQL) Run(ctx context.Context) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	report, err := bench.SQL(ctx, bench.SQLConfig{
		Writers: c.Writers, Rounds: c.Rounds, Slice: c.Slice, Warmup: benchWarmup, Database: c.DatabaseURL,
		Binary: binary, Environ: os.Environ(), Progress: os.Stderr,
	})
	if err != nil {
		return err
	}
	return writeReport(report, c.JSON)
}

// reporter is what a benchmark found.
type reporter interface{ Print(w io.Writer) error }
type benchLLM struct {
	Replicas int           `default:"2" help:"How many to start."`
	Samples  int           `default:"2000" help:"Of each case, one at a time."`
	Rounds   int           `default:"4" help:"In how many parts, in which the cases take turns."`
	Starts   int           `default:"5" help:"Of a replica, for the first answer after one."`
	Rate     int           `default:"1000" help:"Misses a second, open loop."`
	Duration time.Duration `default:"20s" help:"Of the open loop, and of each mix."`
	Streams  int           `default:"500" help:"Paced streams at once."`
	Tokens   int           `default:"100" help:"Of each of these streams."`
	Seed     uint64        `default:"1" help:"Of the mixes."`
	JSON     string        `name:"json" type:"path" placeholder:"FILE" help:"Write the figures there too."`
}

func (benchLLM) Help() string {
	return "Starts a private PostgreSQL, Valkey if it is installed, a fake model and the replicas. The generator, the naive " +
		"cache and the model share one process and all share the CPUs: trust the ratios, not the figures of another machine."
}

func (c *benchLLM) Run(ctx context.Context) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	report, err := bench.LLM(ctx, bench.LLMConfig{
		Replicas: c.Replicas, Samples: c.Samples, Rounds: c.Rounds, Starts: c.Starts, Rate: c.Rate, Duration: c.Duration,
		Streams: c.Streams, Tokens: c.Tokens, Seed: c.Seed, Binary: binary, Environ: os.Environ(), Progress: os.Stderr,
	})
	if err != nil {
		return err
	}
	return writeReport(report, c.JSON)
}

// writeReport shows a report, and writes it to file if one is named.
func writeReport(report reporter, file string) error {
	if err := report.Print(os.Stdout); err != nil {
		return err
	}
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err = os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
