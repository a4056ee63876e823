package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/handlers/access"
	"forgewire/infra/config"
)

type keyCommand struct {
	Create keyCreateCommand `cmd:"" help:"Create a key and print it. It is shown this once: only its hash is kept."`
	List   keyListCommand   `cmd:"" help:"List keys, without their secrets."`
	Revoke keyRevokeCommand `cmd:"" help:"Take a key back, for good, on every replica at once."`
}

func (keyCommand) Help() string { return "Works on DATABASE_URL; needs no running replica." }

// openDatabase connects to DATABASE_URL, which must be migrated.
func openDatabase(ctx context.Context) (*pgxpool.Pool, error) {
	cfg, err := config.LoadOnly(os.Environ(), "DATABASE_URL")
	if err != nil {
		return nil, err
	}
	pool, err := db.NewPool(ctx, db.PoolConfig{URL: cfg.DatabaseURL.Reveal(), MaxConns: 1})
	if err != nil {
		return nil, err
	}
	if err = db.CheckMigrated(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

type keyCreateCommand struct {
	Tenant   string        `arg:"" help:"Whose key it is. Tenants see neither each other's runs nor each other's cached answers."`
	Name     string        `help:"What it is for, for people."`
	Models   []string      `name:"model" help:"A model that it may ask for, * standing for any text; may be repeated. Without it, all." placeholder:"PATTERN"`
	Requests *int64        `name:"requests-per-minute" help:"Requests a minute, all replicas together." placeholder:"N"`
	Tokens   *int64        `name:"tokens-per-minute" help:"Tokens of prompts and answers a minute, cached answers aside." placeholder:"N"`
	Budget   *float64      `help:"What it may spend in a calendar month (UTC), in the currency of the prices in FORGEWIRE_UPSTREAMS: a model without a price costs nothing." placeholder:"AMOUNT"`
	TTL      time.Duration `name:"ttl" help:"How long it is good. Without it, until it is revoked."`
	Bodies   bool          `name:"log-bodies" help:"Keep what is asked with it and answered in the run log."`
	Shared   bool          `help:"Share cached answers with the keys of other tenants that are shared too."`
}

// maxBudget keeps the budget, in millionths, far from where whole numbers end.
const maxBudget = 1e12

func (c *keyCreateCommand) key() (k db.Key, key string, err error) {
	k = db.Key{Tenant: c.Tenant, Name: c.Name, Models: c.Models, RequestsPerMinute: c.Requests, TokensPerMinute: c.Tokens, Shared: c.Shared, LogBodies: c.Bodies}
	for flag, limit := range map[string]*int64{"--requests-per-minute": c.Requests, "--tokens-per-minute": c.Tokens} {
		if limit != nil && *limit <= 0 {
			return k, "", fmt.Errorf("%s must be above 0: leave it out for no limit", flag)
		}
	}
	if c.Budget != nil {
		if !(*c.Budget >= 0 && *c.Budget <= maxBudget) {
			return k, "", errors.New("--budget must be an amount of at least 0: leave it out for no limit")
		}
		k.BudgetMicros = new(int64(math.Round(*c.Budget * 1e6)))
	}
	if c.TTL < 0 {
		return k, "", errors.New("--ttl must be above 0: leave it out for a key that does not expire")
	}
	if c.TTL > 0 {
		k.Expires = new(time.Now().Add(c.TTL))
	}
	k.ID, key, k.Hash = access.NewKey()
	return k, key, nil
}

func (c *keyCreateCommand) Run(ctx context.Context) error {
	k, key, err := c.key()
	if err != nil {
		return err
	}
	pool, err := openDatabase(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	err = db.CreateKey(ctx, pool, k)
	if why := db.KeyMistake(err); why != "" {
		return errors.New(why)
	}
	if err != nil {
		return err
	}
	fmt.Println(key)
	return nil
}

type keyListCommand struct {
	Tenant string `arg:"" optional:"" help:"Whose keys; without it, everybody's."`
}

func (c *keyListCommand) Run(ctx context.Context) error {
	pool, err := openDatabase(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	keys, err := db.ListKeys(ctx, pool, c.Tenant)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTENANT\tSTATE\tREQUESTS/MIN\tTOKENS/MIN\tBUDGET/MONTH\tSHARED\tMODELS\tCREATED\tNAME")
	for _, k := range keys {
		budget := "-"
		if k.BudgetMicros != nil {
			budget = strconv.FormatFloat(float64(*k.BudgetMicros)/1e6, 'f', -1, 64)
		}
		models := "all"
		if len(k.Models) > 0 {
			models = strings.Join(k.Models, ",")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%t\t%s\t%s\t%s\n", k.ID, k.Tenant, keyState(k, time.Now()), orDash(k.RequestsPerMinute),
			orDash(k.TokensPerMinute), budget, k.Shared, printable(models), k.Created.UTC().Format(time.DateOnly), printable(k.Name))
	}
	if err = w.Flush(); err != nil {
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}

func keyState(k db.Key, now time.Time) string {
	switch {
	case k.Revoked != nil:
		return "revoked"
	case k.Expires == nil:
		return "good"
	case !now.Before(*k.Expires):
		return "expired"
	}
	return "until " + k.Expires.UTC().Format(time.DateTime)
}

func orDash(n *int64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(*n, 10)
}

// printable keeps what somebody called a key from moving the cursor of whoever lists it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

type keyRevokeCommand struct {
	ID string `arg:"" help:"The key's id: what stands between its first two _."`
}

func (c *keyRevokeCommand) Run(ctx context.Context) error {
	if err := access.CheckID(c.ID); err != nil {
		return err
	}
	pool, err := openDatabase(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	err = db.RevokeKey(ctx, pool, c.ID)
	if errors.Is(err, db.ErrNotFound) {
		return fmt.Errorf("there is no key %s, or it was revoked before: see `forgewire key list`", c.ID)
	}
	if err != nil {
		return err
	}
	fmt.Println("revoked")
	return nil
}
