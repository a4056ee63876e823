package realtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"forgewire/db"
)

// Deadlines of the listener's connection. A dead one is noticed by pings, not by TCP's patience.
const (
	connectTimeout = 5 * time.Second
	readTimeout    = 10 * time.Second // one look into the log
	pingAfter      = 5 * time.Second  // of silence
	pingTimeout    = 5 * time.Second
	doubtAfter     = time.Second // of silence, when a client arrives
	minBackoff     = 50 * time.Millisecond
	maxSetBackoff  = 500 * time.Millisecond
	maxBackoff     = 5 * time.Second
)

// The NOTIFY channels. Routing by our own channels is the hub's: subscribing never touches Postgres.
const (
	notifyLog  = "forgewire"
	notifyBell = "forgewire_bell"
)

// listener owns the one connection through which everything reaches this replica, also what it published
// itself, so that every client everywhere sees one order.
type listener struct {
	url      string // must reach the server itself: a pooler in transaction mode swallows LISTEN
	logger   *slog.Logger
	follower *follower
	health   *health
	bell     func(from string) // somebody published from SQL, or may have while we were away
	out      *intake
	back     func()                               // connected again: the database may have lost what is not logged
	control  func(body []byte)                    // what another replica, or this one, told all
	relearn  func(context.Context, querier) error // what was told while we did not listen, after each LISTEN
	rest     *rest
	letGo    func()                               // gives up what else is connected to the database
	wake     func()                               // somebody came after a rest
	verify   func(context.Context, querier) error // whether this is the log that the channels were spread for, after each LISTEN
	ended    chan error                           // capacity 1: why the session must end, though nothing failed
	cut      atomic.Pointer[context.CancelFunc]   // ends the waiting that is under way
	heard    atomic.Int64                         // when the server last gave a sign of life, by the wall clock, in nanoseconds
	doubted  chan struct{}                        // capacity 1: it must be asked for one

	// Owned by run.
	conn  *pgx.Conn
	woken <-chan struct{} // closed when somebody comes, while it rests
}

// doubt makes the listener ask for a sign of life, unless there was one just now. A machine that was suspended does not
// know it, and its connections look alive; but most often a client's arrival is what wakes it.
func (l *listener) doubt() {
	if time.Since(time.Unix(0, l.heard.Load())) < doubtAfter {
		return
	}
	select {
	case l.doubted <- struct{}{}:
	default:
	}
}

// end ends the session that is under way, and begins another. It never blocks.
func (l *listener) end(why error) {
	select {
	case l.ended <- why:
	default:
	}
	if cut := l.cut.Load(); cut != nil {
		(*cut)()
	}
}

// run listens until ctx ends, reconnecting for ever; but not while nobody uses this replica.
func (l *listener) run(ctx context.Context) error {
	told := "" // a failure that repeats is told once
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		connected, err := l.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopped, which is no failure
		}
		if errors.Is(err, errIdle) {
			if !l.pause(ctx) {
				return nil
			}
			backoff = minBackoff / 2
			continue
		}
		l.rest.end()
		l.health.disconnected(err)
		if errors.Is(err, errLogSet) {
			backoff = min(backoff, maxSetBackoff) // somebody is about to change it
		}
		if connected {
			backoff, told = minBackoff, ""
		}
		if why := err.Error(); why != told {
			l.logger.Warn("not listening to the database, reconnecting", "error", err)
			told = why
		}
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-ctx.Done():
			return nil
		}
	}
}

// pause gives up everything that is connected to the database until somebody comes, and returns false if ctx ended
// first. What happens meanwhile concerns nobody here: the follower begins anew, and whoever comes back reads its own
// past from the log.
func (l *listener) pause(ctx context.Context) bool {
	l.logger.Info("nobody uses this replica: it leaves the database alone until somebody does")
	l.follower.started = false
	l.health.disconnected(errIdle)
	l.letGo()
	select {
	case <-l.woken:
		l.wake()
		return true
	case <-ctx.Done():
		return false
	}
}

// session connects, listens, catches up and then follows until something fails. It reports whether it got
// as far as following.
func (l *listener) session(ctx context.Context) (connected bool, err error) {
	select {
	case <-l.ended: //nolint:errcheck // that was meant for a session before
	default:
	}
	l.conn, err = connect(ctx, l.url, "forgewire listen")
	if err != nil {
		return false, err
	}
	defer closeConn(l.conn)
	setup, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if err = db.CheckMigrated(setup, l.conn); err != nil {
		return false, err
	}
	// First LISTEN, then read: what is committed between the two comes twice, never not at all.
	if _, err = l.conn.Exec(setup, "LISTEN "+notifyLog+"; LISTEN "+notifyBell); err != nil {
		return false, fmt.Errorf("listen: %w", err)
	}
	if err = l.verify(setup, l.conn); err != nil {
		return false, err
	}
	if err = l.relearn(setup, l.conn); err != nil {
		return false, err
	}
	l.out.arrivals.committed.Store(0) // what was committed until now is read from the log
	if err = l.follower.resume(setup); err != nil {
		return false, err
	}
	l.health.connected()
	l.bell("")
	l.back()
	l.out.catchUp()
	l.rest.end()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.follow(ctx) })
	g.Go(func() error { return l.interrupt(ctx) })
	g.Go(func() error {
		if err := l.health.check(ctx); err != nil && ctx.Err() == nil {
			l.logger.Error("this replica cannot serve", "error", err)
		}
		return nil
	})
	return true, g.Wait()
}

// follow handles notifications until the connection fails. The window's context is shared by all that
// arrive in it, so a busy connection pays for no timer each.
func (l *listener) follow(ctx context.Context) error {
	quiet := silence{began: time.Now()}
	for {
		window, cancel := context.WithTimeout(ctx, l.window())
		l.cut.Store(&cancel)
		heard := false
		var err error
		for err == nil {
			if err = l.next(window, ctx); err == nil {
				heard = true
			}
		}
		doubted := errors.Is(window.Err(), context.Canceled)
		expired := window.Err() != nil && ctx.Err() == nil && errors.Is(err, window.Err())
		cancel()
		if !expired {
			return err
		}
		select {
		case err = <-l.ended:
			return err
		default:
		}
		if l.woken = l.rest.begin(); l.woken != nil {
			return errIdle
		}
		if heard {
			quiet.end(time.Now())
		}
		if heard && !doubted {
			continue
		}
		ping, stop := context.WithTimeout(ctx, pingTimeout) // not the window's cancel, which interrupt may call
		err = l.conn.Ping(ping)
		stop()
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		l.heard.Store(time.Now().UnixNano())
		if quiet.deaf(time.Now(), l.follower.at, l.out.arrivals.committed.Load(), l.health.unheard()) {
			return errDeaf
		}
	}
}

// interrupt ends the waiting of follow when there is doubt.
func (l *listener) interrupt(ctx context.Context) error {
	for {
		select {
		case <-l.doubted:
			if cut := l.cut.Load(); cut != nil {
				(*cut)()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// window is how long to listen before looking whether the connection lives, and whether anybody is here.
func (l *listener) window() time.Duration {
	if l.rest.after > 0 {
		return min(pingAfter, l.rest.after)
	}
	return pingAfter
}

// next waits, as long as window lasts, for a notification and handles it.
func (l *listener) next(window, ctx context.Context) error {
	n, err := l.conn.WaitForNotification(window)
	if err != nil {
		return fmt.Errorf("wait for a notification: %w", err)
	}
	l.out.arrivals.heard()
	l.heard.Store(time.Now().UnixNano())
	if n.Channel == notifyBell {
		if n.Payload == "" { // a publish, which this replica may have to move
			l.rest.touch()
		}
		l.bell(n.Payload)
		return nil
	}
	if nonce, ok := strings.CutPrefix(n.Payload, kindProbe); ok {
		l.health.echo(nonce)
		return nil
	}
	if body, ok := strings.CutPrefix(n.Payload, kindEphemeral); ok {
		l.ephemeral(body)
		return nil
	}
	if body, ok := strings.CutPrefix(n.Payload, kindNews); ok {
		if all, err := parseNews(body); err != nil {
			l.logger.Warn("news of joins and leaves that no replica sent was ignored", "error", err)
		} else {
			l.out.hub.announce(all)
		}
		return nil
	}
	if body, ok := strings.CutPrefix(n.Payload, kindControl); ok {
		l.control([]byte(body))
		return nil
	}
	read, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	parsed, err := parseNotification(n.Payload)
	if err != nil {
		l.logger.Warn("a notification that the log did not send was ignored", "error", err)
		return l.follower.resume(read)
	}
	return l.follower.notified(read, parsed)
}

// ephemeral hands on messages that are not in the log.
func (l *listener) ephemeral(body string) {
	_, body, _ = strings.Cut(body, "\n")
	m, err := parseMessages(body)
	if err != nil {
		l.logger.Warn("an ephemeral notification that no replica sent was ignored", "error", err)
		return
	}
	l.out.deliver(m)
}

// state and read make the listener its follower's logReader: on its own connection, so that catching up
// waits for nobody.
func (l *listener) state(ctx context.Context, at uint64) (logState, error) {
	return readState(ctx, l.conn, at)
}

func (l *listener) read(ctx context.Context, after, before uint64) ([]Message, error) {
	return readRange(ctx, l.conn, after, before)
}

// connect opens a connection outside the pool, to a server that takes writes. The server notices within
// half a minute when we are gone, or frozen with more to read than the network holds, and lets go of our locks and of
// the notifications that it keeps for us: at 8 GB of them, every NOTIFY would fail.
func connect(ctx context.Context, url, name string) (*pgx.Conn, error) {
	pc, err := pgxpool.ParseConfig(url) // it knows the pool's own parameters, which the server does not
	if err != nil {
		return nil, errors.New("the listener's database URL is not valid") // pgx's error would quote it
	}
	cfg := pc.ConnConfig
	cfg.ConnectTimeout = connectTimeout
	// Behind a pooler in transaction mode, where this must not be, a kept statement would fail before anybody could say so.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	cfg.RuntimeParams["application_name"] = name
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	var standby bool
	err = conn.QueryRow(ctx, "SELECT pg_is_in_recovery(), "+db.KeepAlive).Scan(&standby, nil)
	if err == nil && standby {
		err = errors.New("the server is a standby, which can neither LISTEN nor take writes")
	}
	if err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("prepare the connection: %w", err)
	}
	return conn, nil
}

// closeConn says goodbye to the server, but not for long.
func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx) // it may be dead; nothing is left to lose
}
