package realtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
)

// LogConfig is one of the logs over which channels are spread: a PostgreSQL database.
type LogConfig struct {
	Pool *pgxpool.Pool // for what is read
	// PublishPool is a small pool for the publisher; nil: Pool.
	PublishPool *pgxpool.Pool
	ListenURL   string // the server itself, not a pooler in transaction mode
}

// A strand is one of the logs as this replica serves it: what publishes there, and what listens and hands on to the
// hub. A node has one or several, which know nothing of each other: where one stops, the others go on. The first is
// also where everything else lives that the replicas share.
type strand struct {
	place     int // in the set of logs
	cfg       LogConfig
	logger    *slog.Logger
	log       *Log
	past      past // log, but in the simulation
	publisher *Publisher
	health    *health
	listener  *listener
	in        *intake
	several   bool                   // there are other logs
	set       atomic.Pointer[logSet] // that the log's database has recorded, once it was reached

	mu    sync.Mutex
	stop  context.CancelFunc // guarded by mu: ends the listening that is under way
	awake chan struct{}      // guarded by mu: closed unless the replica rests
}

func newStrand(place, logs int, cfg LogConfig, logger *slog.Logger, in *intake) *strand {
	if logs > 1 {
		logger = logger.With("log", place)
	}
	s := &strand{place: place, cfg: cfg, logger: logger, log: NewLog(cfg.Pool), publisher: NewPublisher(NewLog(cfg.PublishPool)),
		health: newHealth(cfg.PublishPool), in: in, several: logs > 1, awake: make(chan struct{})}
	close(s.awake)
	s.past = s.log
	s.publisher.stats.arrivals = &in.arrivals
	s.listener = &listener{url: cfg.ListenURL, logger: logger, health: s.health, out: in, doubted: make(chan struct{}, 1), ended: make(chan error, 1)}
	s.listener.follower = &follower{log: s.listener, out: in}
	return s
}

// follow listens until ctx ends, but not while the replica rests: the first log's listener knows when, as everything
// that keeps a replica awake is known there. Only the others' are run by this.
func (s *strand) follow(ctx context.Context) error {
	for {
		session, stop := s.wait(ctx)
		err := s.listener.run(session)
		stop()
		if ctx.Err() != nil || err != nil {
			return err
		}
		s.listener.follower.started = false
		s.health.disconnected(errIdle)
	}
}

// wait returns a context for listening, which pause ends, once the replica does not rest.
func (s *strand) wait(ctx context.Context) (session context.Context, stop context.CancelFunc) {
	session, stop = context.WithCancel(ctx)
	for {
		s.mu.Lock()
		awake := s.awake
		select {
		case <-awake:
			s.stop = stop
			s.mu.Unlock()
			return session, stop
		default:
		}
		s.mu.Unlock()
		select {
		case <-awake:
		case <-ctx.Done():
			return session, stop
		}
	}
}

// pause ends the listening until resume.
func (s *strand) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.awake = make(chan struct{})
	if s.stop != nil {
		s.stop()
	}
}

func (s *strand) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.awake:
	default:
		close(s.awake)
	}
}

// letGo gives up the connections.
func (s *strand) letGo() {
	s.cfg.Pool.Reset()
	s.cfg.PublishPool.Reset()
}

// publish appends messages whose channels are all of this log.
func (s *strand) publish(ctx context.Context, messages []Message) ([]Message, error) {
	if traced(ctx) && len(messages) > 0 {
		sent, err := s.publishTraced(ctx, messages)
		return sent, s.blame(err)
	}
	sent, err := s.publisher.Publish(ctx, messages...)
	return sent, s.blame(err)
}

// blame says of an error that it concerns one log of several, so that whoever gets it knows that other channels work.
func (s *strand) blame(err error) error {
	if e := (*Error)(nil); err == nil || !s.several || errors.As(err, &e) || errors.Is(err, context.Canceled) {
		return err
	}
	s.logger.Warn("a log did not do what was asked of it", "error", err)
	return fmt.Errorf("%w: %w", ErrInternal.With(fmt.Sprintf("the channel's log (number %d) cannot be reached", s.place)), err)
}

// place says which log has a channel.
func (n *Node) place(channel string) int { return PlaceOf(channel, len(n.strands)) }

func (n *Node) strandOf(channel string) *strand { return n.strands[n.place(channel)] }

// reach returns the place of the log that has a channel, or why nobody can subscribe to it now. Where there is one log, a
// client waits on its subscription for the log to come back; where there are several, it is told.
func (n *Node) reach(channel string) (int, error) {
	if len(n.strands) <= 1 && !n.foreign.Load() {
		return 0, nil
	}
	s := n.strandOf(channel)
	if n.foreign.Load() {
		return 0, ErrInternal.With(errLogSet.Error())
	}
	if !s.health.isConnected() {
		return 0, ErrInternal.With(fmt.Sprintf("the channel's log (number %d) cannot be reached", s.place))
	}
	return s.place, nil
}
