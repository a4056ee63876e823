package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

const (
	postgresFolder = "postgres"
	valkeyFolder   = "valkey"
)

// Config says what to start and where.
type Config struct {
	// Dir is the folder for the data, made if absent. With "" it is a temporary
	// one that Stop removes.
	Dir string
	// Settings are PostgreSQL settings laid over the defaults.
	Settings map[string]string
	// NoValkey leaves the cache out.
	NoValkey bool
	// Progress gets one plain line for whatever takes long; nil means silence.
	Progress io.Writer
}

// Stack is the running servers.
type Stack struct {
	// Postgres is the database, always there.
	Postgres *Server
	// Valkey is the cache, nil where no valkey-server is installed.
	Valkey *Server

	dir       string
	ephemeral bool

	mu   sync.Mutex
	lock *folderLock // of dir, nil once stopped
}

// Start starts the servers and returns once both answer. They end with Stop, and
// with our process however it ends. ctx bounds the start, not the life.
func Start(ctx context.Context, cfg Config) (*Stack, error) {
	return startStack(ctx, cfg, systemFinder())
}

func startStack(ctx context.Context, cfg Config, find finder) (*Stack, error) {
	s, err := openStack(cfg)
	if err != nil {
		return nil, fmt.Errorf("start servers: %w", err)
	}
	if err := s.startServers(ctx, cfg, find); err != nil {
		// Cleaning up must also work when it is ctx that has ended.
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// openStack makes and locks the folder.
func openStack(cfg Config) (*Stack, error) {
	s := &Stack{ephemeral: cfg.Dir == ""}
	var err error
	if s.ephemeral {
		sweep(os.TempDir())
		// Ours alone to write, so that nobody can put a link where we expect a folder.
		s.dir, err = makeTemporary("", temporaryPrefix, unprivileged(), func(dir string) error {
			return os.Chmod(dir, 0o711)
		})
	} else if s.dir, err = filepath.Abs(cfg.Dir); err == nil {
		err = os.MkdirAll(s.dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	if s.lock, err = lockFolder(s.dir); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Stack) startServers(ctx context.Context, cfg Config, find finder) error {
	out := &progress{w: cfg.Progress}
	server, err := preparePostgres(ctx, filepath.Join(s.dir, postgresFolder), cfg.Settings, out, find)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	s.Postgres = server
	if cfg.NoValkey {
		return nil
	}
	server, err = StartValkey(ctx, filepath.Join(s.dir, valkeyFolder), nil, cfg.Progress)
	if errors.Is(err, ErrNoValkey) {
		out.line("no valkey-server installed: running without Valkey")
		return nil
	}
	if err != nil {
		return err
	}
	s.Valkey = server
	return nil
}

// Stop stops both servers in order and removes a temporary folder. When ctx ends
// first they are ended at once, so give it some seconds. A second call does nothing.
func (s *Stack) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	var err error
	if s.Valkey != nil {
		err = s.Valkey.Stop(ctx)
	}
	if s.Postgres != nil {
		err = errors.Join(err, s.Postgres.Stop(ctx))
	}
	if s.ephemeral {
		if removeErr := os.RemoveAll(s.dir); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove temporary data: %w", removeErr))
		}
	}
	err = errors.Join(err, s.lock.release())
	s.lock = nil
	return err
}
