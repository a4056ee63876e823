package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"io"

	"forgewire/db"
	"forgewire/infra/devstack"
)

// stack is what a benchmark starts for itself: a private, empty, migrated PostgreSQL, unless it is given a
// database, and replicas.
type stack struct {
	private  *devstack.Stack // nil where the database was given
	database string
	apiKey   string
	valkey   bool     // there is one
	environ  []string // what replicas get besides what launchReplica sets
	replicas []*replica
}

// stackConfig says what to start.
type stackConfig struct {
	Binary   string   // forgewire
	Environ  []string // of which the replicas get the variables of the Go runtime
	Database string   // "" for a private one
	Replicas int
	Progress io.Writer

	Valkey    bool     // beside a private database, if it is installed
	Variables []string // more of the replicas' environment
}

// start starts a stack, and lets the report know what it is of.
func (s Setup) start(ctx context.Context, cfg stackConfig) (*stack, error) {
	cfg.Binary, cfg.Environ, cfg.Progress = s.Binary, s.Environ, s.Progress
	st, err := startStack(ctx, cfg)
	if err == nil && s.Machine != nil {
		s.Machine.serverVersions(ctx, st)
	}
	return st, err
}

func startStack(ctx context.Context, cfg stackConfig) (s *stack, err error) {
	s = &stack{database: cfg.Database, apiKey: rand.Text(), environ: append(goVariables(cfg.Environ), cfg.Variables...)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop(ctx))
		}
	}()
	if s.database == "" {
		if s.private, err = devstack.Start(ctx, devstack.Config{NoValkey: !cfg.Valkey, Progress: cfg.Progress}); err != nil {
			return s, err
		}
		s.database = s.private.Postgres.URL()
		if s.valkey = s.private.Valkey != nil; s.valkey {
			s.environ = append(s.environ, "VALKEY_URL="+s.private.Valkey.URL())
		}
		if err = db.Migrate(ctx, s.database); err != nil {
			return s, err
		}
	}
	for range cfg.Replicas {
		r, err := startReplica(ctx, cfg.Binary, s.database, s.apiKey, s.environ)
		if err != nil {
			return s, err
		}
		s.replicas = append(s.replicas, r)
	}
	return s, nil
}

// stop ends everything. An error of a replica that ended by itself is worth telling.
func (s *stack) stop(ctx context.Context) error {
	err := stopAll(s.replicas)
	if s.private != nil {
		err = errors.Join(err, s.private.Stop(context.WithoutCancel(ctx)))
	}
	return err
}

// system is the stack as the generator sees it.
func (s *stack) system() *system {
	sys := &system{apiKey: s.apiKey, watched: watched{"generator": self}}
	var pids []int
	for _, r := range s.replicas {
		sys.replicas = append(sys.replicas, r.url)
		pids = append(pids, r.pid)
	}
	sys.watched["replicas"] = func() []int { return pids }
	if s.private != nil {
		sys.watched["postgres"] = serverAndChildren(s.private.Postgres.PID())
		if s.valkey {
			pid := s.private.Valkey.PID()
			sys.watched["valkey"] = func() []int { return []int{pid} }
		}
	}
	return sys
}
