package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"forgewire/cmd/forgewire/bench"
	"forgewire/infra/config"
)

type benchCommand struct {
	All     benchAll     `cmd:"" help:"All of the following, one after the other, into one report."`
	Compare benchCompare `cmd:"" help:"Compare two reports."`
	Table   benchTable   `cmd:"" help:"Write a report's figures as Markdown, as the README has them."`
	HTML    benchReport  `cmd:"" name:"html" help:"Write a report for a browser."`

	Fanout benchFanout `cmd:"" help:"Publish over HTTP, receive over WebSocket; beside it the floor, without either."`
	SQL    benchSQL    `cmd:"" name:"sql" help:"What publishing costs a transaction of one's own."`

	Connections benchConnections `cmd:"" help:"What thousands of connections take, beside the peer's."`
	Broadcast   benchBroadcast   `cmd:"" help:"How fast a message reaches thousands of clients, beside the peer."`
	Resume      benchResume      `cmd:"" help:"How fast clients that come back have what they missed, beside the peer."`
	Presence    benchPresence    `cmd:"" help:"Joining, leaving and asking who is there, beside the peer."`
	Loader      benchLoader      `cmd:"" hidden:"" help:"A process of clients, for the other benchmarks."`
	LLM         benchLLM         `cmd:"" name:"llm" help:"The LLM endpoint before a fake model, beside the model itself and a naive cache."`
	HTTP        benchHTTP        `cmd:"" name:"http" help:"The resources of /v1 at rising rates, beside a bare net/http and pgx handler."`
	Mixed       benchMixed       `cmd:"" help:"Everything at once: publishers, also in SQL, subscribers, LLM clients, readers and writers."`
	Logs        benchLogs        `cmd:"" help:"What a message costs with several logs and many listening replicas."`
	Floor       benchFloor       `cmd:"" hidden:"" help:"That handler."`
}

// benchOutput is where a result goes besides the terminal.
type benchOutput struct {
	JSON string `name:"json" type:"path" placeholder:"FILE" help:"Write the report there, for programs."`
}

// benchTarget names a running deployment. Its secrets are left out of the report.
type benchTarget struct {
	URL         []string `name:"url" help:"Of a running deployment to measure; once for each replica, or the load balancer's."`
	APIKey      string   `name:"api-key" help:"Of its server API; else FORGEWIRE_API_KEY."`
	Token       string   `help:"Of its subscribers, if it has no anonymous ones."`
	Key         string   `help:"Of its /v1, for http, and for the readers, writers and LLM clients of mixed; else that of the server API."`
	Model       string   `help:"What the LLM clients of mixed ask for; without it there are none."`
	DatabaseURL string   `name:"database-url" help:"Its database, for the publishers in SQL of mixed; without it there are none."`
	Namespace   string   `help:"One of its namespaces, with presence, for the channels of connections, broadcast, resume and presence."`
}

func (t benchTarget) target() (bench.Target, error) {
	out := bench.Target{URLs: t.URL, APIKey: t.APIKey, Token: t.Token, Key: t.Key, Model: t.Model, Database: t.DatabaseURL, Namespace: t.Namespace}
	if len(t.URL) > 0 && t.APIKey == "" {
		env, err := config.LoadOnly(os.Environ(), "FORGEWIRE_API_KEY")
		if err != nil {
			return out, err
		}
		out.APIKey = env.APIKey.Reveal()
	}
	out.Key = cmp.Or(out.Key, out.APIKey)
	return out, nil
}

// setup is what all benchmarks get.
func (t benchTarget) setup() (s bench.Setup, err error) {
	if s.Target, err = t.target(); err != nil {
		return s, err
	}
	if s.Binary, err = os.Executable(); err != nil {
		return s, fmt.Errorf("find this program: %w", err)
	}
	s.Environ, s.Progress = os.Environ(), os.Stderr
	return s, nil
}

// run measures, and shows and writes the report.
func (o benchOutput) run(ctx context.Context, t benchTarget, measure func(bench.Setup) (*bench.Result, error)) error {
	setup, err := t.setup()
	if err != nil {
		return err
	}
	report := bench.NewReport(ctx, os.Args[1:], version, setup.Target)
	setup.Machine = &report.Machine
	result, err := measure(setup)
	if err != nil {
		return err
	}
	report.Add(result)
	return o.write(report, os.Stdout)
}

func (o benchOutput) write(report *bench.Report, out io.Writer) error {
	if err := report.Print(out); err != nil || o.JSON == "" {
		return err
	}
	return report.WriteJSON(o.JSON)
}

type benchFanout struct {
	benchTarget
	benchOutput

	Publishers  int           `default:"64" help:"How many publish at once; one is measured too."`
	Subscribers int           `default:"0" help:"How many receive; 0 for one a replica."`
	Duration    time.Duration `default:"10s" help:"Of each measurement."`
	Rounds      int           `default:"2" help:"In how many parts, in which the floor and the whole take turns."`
	Size        int           `default:"150" help:"Of a message's data, in bytes."`
	Replicas    int           `default:"2" help:"How many to start."`
	Channels    int           `default:"1" help:"Over how many the publishers are spread."`
	Rates       []int         `default:"2000,8000" help:"Of messages a second, open loop; each is measured."`
	Idle        bool          `help:"Measure also the CPU time of an idle replica, over 10 s."`
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
	return c.run(ctx, c.benchTarget, func(s bench.Setup) (*bench.Result, error) {
		cfg := bench.FanoutConfig{
			Publishers: c.Publishers, Subscribers: c.Subscribers, Replicas: c.Replicas, Channels: c.Channels, Size: c.Size,
			Rates: c.Rates, Duration: c.Duration, Warmup: benchWarmup, Rounds: c.Rounds, Setup: s,
		}
		if c.Idle {
			cfg.Idle = benchIdle
		}
		return bench.Fanout(ctx, cfg)
	})
}

type benchSQL struct {
	benchOutput

	Writers     int           `default:"32" help:"How many transactions at once."`
	Rounds      int           `default:"5" help:"How often each case is measured; the cases take turns."`
	Slice       time.Duration `default:"3s" help:"How long each time, in whole seconds."`
	DatabaseURL string        `name:"database-url" help:"A migrated database, in which tables are made and dropped; else a private one."`
}

func (benchSQL) Help() string {
	return "Needs pgbench. A replica runs beside it and moves what is published to a subscriber at the same time."
}

func (c *benchSQL) Run(ctx context.Context) error {
	return c.run(ctx, benchTarget{}, func(s bench.Setup) (*bench.Result, error) {
		return bench.SQL(ctx, bench.SQLConfig{Writers: c.Writers, Rounds: c.Rounds, Slice: c.Slice, Warmup: benchWarmup, Database: c.DatabaseURL, Setup: s})
	})
}

type benchLLM struct {
	benchOutput

	Replicas int           `default:"2" help:"How many to start."`
	Samples  int           `default:"2000" help:"Of each case, one at a time."`
	Rounds   int           `default:"4" help:"In how many parts, in which the cases take turns."`
	Starts   int           `default:"5" help:"Of a replica, for the first answer after one."`
	Rate     int           `default:"1000" help:"Misses a second, open loop."`
	Duration time.Duration `default:"20s" help:"Of the open loop, and of each mix."`
	Streams  int           `default:"500" help:"Paced streams at once."`
	Tokens   int           `default:"100" help:"Of each of these streams."`
	Seed     uint64        `default:"1" help:"Of the mixes."`
}

func (benchLLM) Help() string {
	return "Starts a private PostgreSQL, Valkey if it is installed, a fake model and the replicas. The generator, the naive " +
		"cache and the model share one process and all share the CPUs: trust the ratios, not the figures of another machine."
}

func (c *benchLLM) Run(ctx context.Context) error {
	return c.run(ctx, benchTarget{}, func(s bench.Setup) (*bench.Result, error) {
		return bench.LLM(ctx, bench.LLMConfig{
			Replicas: c.Replicas, Samples: c.Samples, Rounds: c.Rounds, Starts: c.Starts, Rate: c.Rate, Duration: c.Duration,
			Streams: c.Streams, Tokens: c.Tokens, Seed: c.Seed, Setup: s,
		})
	})
}
