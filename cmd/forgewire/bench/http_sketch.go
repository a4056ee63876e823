package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// sketchProgram is the guide's sketch, in this repository: two processes of Python on the same servers.
const sketchProgram = "e2e/peer/sketch/sketch.py"

// sketchTable has the prompt that is read, in one row: the sketch has no versions and no labels to join.
const (
	sketchTable = `CREATE TABLE public.bench_sketch (id text PRIMARY KEY, name text, revision bigint, newest_version int, created_at timestamptz, updated_at timestamptz,
	labels jsonb, version int, template text, variables text[], key_id text, made_at timestamptz)`
	fillSketch = "INSERT INTO public.bench_sketch " + selectPrompt
)

// startSketch starts it with a Python that has its packages.
func (s *httpSystem) startSketch(ctx context.Context, python string) error {
	at, err := repository()
	if err != nil {
		return err
	}
	if at == "" {
		return errors.New("the sketch is in Forgewire's repository: run this inside it, or without --sketch")
	}
	if !s.valkey {
		return errors.New("the sketch needs Valkey, which is not installed")
	}
	conn, err := pgx.Connect(ctx, s.database)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err = conn.Exec(ctx, sketchTable); err == nil {
		_, err = conn.Exec(ctx, fillSketch, httpTenant, s.id)
	}
	if err != nil {
		return fmt.Errorf("make the sketch's table: %w", err)
	}
	s.sketch, err = startServer(ctx, python, []string{filepath.Join(at, sketchProgram)},
		[]string{"DATABASE_URL=" + s.database, "VALKEY_URL=" + s.private.Valkey.URL(), "PYTHONDONTWRITEBYTECODE=1"})
	return err
}
