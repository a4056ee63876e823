package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/infra/config"
	"forgewire/realtime"
)

type migrateCommand struct{}

func (migrateCommand) Help() string {
	return "Uses LISTEN_DATABASE_URL, or DATABASE_URL: a pooler in transaction mode cannot hold the lock that it needs."
}

func (migrateCommand) Run(ctx context.Context) error {
	cfg, err := config.LoadOnly(os.Environ(), "DATABASE_URL")
	if err != nil {
		return err
	}
	if err = migrate(ctx, cfg); err != nil {
		return err
	}
	fmt.Println("the schema is up to date")
	return nil
}

// openLog connects to the log that has a channel.
func openLog(ctx context.Context, channel string) (*realtime.Log, *pgxpool.Pool, error) {
	cfg, err := config.LoadOnly(os.Environ(), "DATABASE_URL")
	if err != nil {
		return nil, nil, err
	}
	urls := append([]string{cfg.DatabaseURL.Reveal()}, cfg.Logs()...)
	place := realtime.PlaceOf(channel, len(urls))
	pool, err := db.NewPool(ctx, db.PoolConfig{URL: urls[place], MaxConns: 1})
	if err != nil {
		return nil, nil, err
	}
	if err = db.CheckMigrated(ctx, pool); err != nil {
		pool.Close()
		return nil, nil, err
	}
	log := realtime.NewLog(pool)
	if err = log.Verify(ctx, place, len(urls)); err != nil {
		pool.Close()
		return nil, nil, err
	}
	return log, pool, nil
}

type publishCommand struct {
	Channel string `arg:"" help:"The channel, such as room:1."`
	Data    string `arg:"" optional:"" default:"-" help:"The message, as JSON; - reads it from standard input."`
}

func (publishCommand) Help() string {
	return "Appends to the channel's log, which it finds as replicas do (DATABASE_URL, FORGEWIRE_LOG_DATABASE_URLS), and prints the message's offset; needs no running replica."
}

func (c *publishCommand) Run(ctx context.Context) error {
	data := []byte(c.Data)
	if c.Data == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(os.Stdin, 16<<20)); err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
	}
	log, pool, err := openLog(ctx, c.Channel)
	if err != nil {
		return err
	}
	defer pool.Close()
	at, err := log.Append(ctx, realtime.Message{Channel: c.Channel, Data: data})
	if err != nil {
		return err
	}
	fmt.Println(at)
	return nil
}

type tailCommand struct {
	Channel string  `arg:"" help:"The channel, such as room:1."`
	Since   *uint64 `help:"Begin after this offset: 0 for everything that is kept. Without it, only what comes from now on."`
}

func (tailCommand) Help() string {
	return "Follows the channel's log, which it finds as replicas do (DATABASE_URL, FORGEWIRE_LOG_DATABASE_URLS), and prints each message as one line of JSON; needs no running replica."
}

// tailEvery is how often tail looks: it asks the log and takes no listener's place.
const tailEvery = 200 * time.Millisecond

func (c *tailCommand) Run(ctx context.Context) error {
	log, pool, err := openLog(ctx, c.Channel)
	if err != nil {
		return err
	}
	defer pool.Close()
	h, err := log.History(ctx, c.Channel, realtime.HistoryFilter{})
	if err != nil {
		return err
	}
	at := h.Position
	if c.Since != nil {
		at.Offset = *c.Since
	}
	if at.Offset == 0 {
		at.Epoch = "" // from the oldest that is kept, whatever was retired
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for {
		h, err = log.History(ctx, c.Channel, realtime.HistoryFilter{Since: &at, Limit: 1000})
		if errors.Is(err, realtime.ErrUnrecoverable) {
			return fmt.Errorf("offset %d is not one that the log still has: use --since 0", at.Offset)
		}
		if err != nil {
			return err
		}
		for _, m := range h.Messages {
			if err = out.Encode(tailLine{m.Offset, m.Data}); err != nil {
				return fmt.Errorf("write to standard output: %w", err)
			}
			at = realtime.Position{Offset: m.Offset, Epoch: h.Position.Epoch}
		}
		if len(h.Messages) > 0 {
			continue
		}
		select {
		case <-time.After(tailEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

type tailLine struct {
	Offset uint64          `json:"offset"`
	Data   json.RawMessage `json:"data"`
}

type tokenCommand struct {
	User string        `arg:"" help:"The user that the token names."`
	TTL  time.Duration `name:"ttl" default:"1h" help:"How long it is good; 0 for ever."`
}

func (tokenCommand) Help() string { return "Signs with FORGEWIRE_TOKEN_SECRET (HS256)." }

func (c *tokenCommand) Run() error {
	cfg, err := config.LoadOnly(os.Environ(), "FORGEWIRE_TOKEN_SECRET")
	if err != nil {
		return err
	}
	if cfg.TokenSecret == "" {
		return errors.New("FORGEWIRE_TOKEN_SECRET is none: sign tokens where the private key is")
	}
	t, err := realtime.TokenConfig{Secret: cfg.TokenSecret.Reveal(), Audience: cfg.TokenAudience, Issuer: cfg.TokenIssuer}.Sign(c.User, c.TTL)
	if err != nil {
		return err
	}
	fmt.Println(t)
	return nil
}

type versionCommand struct{}

func (versionCommand) Run() error {
	fmt.Println("forgewire", version)
	return nil
}
