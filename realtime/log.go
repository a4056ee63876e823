package realtime

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Position is a place in the log: everything up to and including Offset lies behind it.
type Position struct {
	Offset uint64
	Epoch  string
}

// Log is the ordered log in one PostgreSQL database. It is safe for concurrent use.
type Log struct {
	pool *pgxpool.Pool
	// recovering holds a token for each recovery under way. After a restart all clients ask at once: they wait
	// here, and not in the pool, whose queue is short and which other requests need too.
	recovering chan struct{}
}

// Bounds of recoveries: so many read at once, and one waits so long for its turn.
const (
	maxRecovering = 16
	recoverWait   = 30 * time.Second
)

// NewLog returns the log that lives in pool's database.
func NewLog(pool *pgxpool.Pool) *Log {
	return &Log{pool: pool, recovering: make(chan struct{}, maxRecovering)}
}

// querier is a connection, the pool, or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Append writes one message, outside any replica, and returns its offset.
func (l *Log) Append(ctx context.Context, m Message) (uint64, error) {
	if err := check(&m, MaxMessageBytes); err != nil {
		return 0, err
	}
	messages := []Message{m}
	if err := appendTo(ctx, l.pool, messages); err != nil {
		return 0, err
	}
	return messages[0].Offset, nil
}

// appendTo writes messages in one transaction and one round trip and sets the offsets of those that are
// stored. It returns after the commit. On an error that is not pgconn.SafeToRetry nobody knows whether they
// were appended.
func appendTo(ctx context.Context, q querier, messages []Message) error {
	var stored, passing []Message
	for _, m := range messages {
		if m.ephemeral {
			passing = append(passing, m)
		} else {
			stored = append(stored, m)
		}
	}
	others := ephemeralPayloads(passing)
	if len(stored) == 0 {
		var n int
		err := q.QueryRow(ctx, "SELECT count(pg_notify($1, o)) FROM unnest($2::text[]) AS o", notifyLog, others).Scan(&n)
		if err != nil {
			return fmt.Errorf("notify of messages: %w", err)
		}
		return nil
	}
	channels, datas := make([]string, len(stored)), make([]string, len(stored))
	metas, nullable := make([]string, len(stored)), make([]*string, len(stored))
	for i := range stored {
		m := &stored[i]
		channels[i], datas[i] = m.Channel, string(m.Data)
		if metas[i] = m.Meta.encode(); metas[i] != "" {
			nullable[i] = &metas[i]
		}
	}
	bodies, counts := pack(stored, metas)
	var base uint64
	err := q.QueryRow(ctx, "SELECT forgewire.append($1, $2, $3, $4, $5, $6)", channels, datas, nullable, bodies, counts, others).Scan(&base)
	if err != nil {
		return fmt.Errorf("append messages: %w", err)
	}
	for i := range messages {
		if !messages[i].ephemeral {
			messages[i].Offset = base
			base++
		}
	}
	return nil
}

// logState is what a follower must know of the log to trust a position.
type logState struct {
	epoch   string
	retired uint64 // every number up to here has been retired
	last    uint64 // the newest message, or retired
	// valid says whether the position that was asked for is one that the log can vouch for, apart from
	// retirement; survived is the last message at or before it.
	valid    bool
	survived uint64
}

// readState looks at the log and judges the position at. A number that was given out and lost lies in no
// incarnation, or after the newest message.
func readState(ctx context.Context, q querier, at uint64) (logState, error) {
	var s logState
	err := q.QueryRow(ctx, `SELECT l.epoch, l.retired, greatest(l.retired, (SELECT max(seq) FROM forgewire.messages)),
			EXISTS (SELECT FROM forgewire.incarnations i WHERE $1 >= i.base - 1 AND $1 <= coalesce(i.last, $1)),
			greatest(l.retired, (SELECT max(seq) FROM forgewire.messages WHERE seq <= $1))
		FROM forgewire.log l`, int64(at)).Scan(&s.epoch, &s.retired, &s.last, &s.valid, &s.survived)
	if err != nil {
		return s, fmt.Errorf("read the log's state: %w", err)
	}
	s.valid = s.valid && at <= s.last
	return s, nil
}

// Bounds of one read of a gap, or of what was too large to ride in a notification.
const (
	readMessages = 1000
	readBytes    = 4 << 20
)

// readRange returns the first messages after from and before to, in order: at least one if there is one.
func readRange(ctx context.Context, q querier, from, to uint64) ([]Message, error) {
	rows, err := q.Query(ctx, `SELECT seq, channel, data, coalesce(meta, '') FROM (
			SELECT m.*, sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS before FROM (
				SELECT * FROM forgewire.messages WHERE seq > $1 AND seq < $2 ORDER BY seq LIMIT $3) m) m
		WHERE before < $4 ORDER BY seq`, int64(from), int64(to), readMessages, readBytes)
	return collect(rows, err)
}

func collect(rows pgx.Rows, err error) ([]Message, error) {
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	messages, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Message, err error) {
		var data, meta string
		if err = row.Scan(&m.Offset, &m.Channel, &data, &meta); err != nil {
			return m, err
		}
		m.Data = []byte(data)
		m.Meta, err = decodeMeta(meta)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	return messages, nil
}

// queryTimeout bounds what a client's or the API's question may take. A database that hangs must not keep the
// pool's connections, on which publishes wait too.
const queryTimeout = 5 * time.Second

// Bounds of one recovery. A client that missed more starts anew: it would wait longer for the past than
// the present is worth, and the reply would not fit its queue.
const (
	MaxRecovered      = 10_000  // messages
	maxRecoveredBytes = 4 << 20 // of data
)

// enterRecovery waits for its turn; whoever waits too long comes back later.
func (l *Log) enterRecovery(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoverWait)
	defer cancel()
	select {
	case l.recovering <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait to read what was missed: %w", ctx.Err())
	}
}

// recover returns the channel's messages after since, up to and including upto: all of them, or
// ErrUnrecoverable. A since after upto is one that this replica has not reached yet.
func (l *Log) recover(ctx context.Context, channel string, since Position, upto uint64) ([]Message, error) {
	if err := l.enterRecovery(ctx); err != nil {
		return nil, err
	}
	defer func() { <-l.recovering }()
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var messages []Message
	if since.Offset < upto {
		var size int64
		var hidden uint64
		err := l.pool.QueryRow(ctx, `SELECT coalesce(sum(octet_length(data)), 0), `+hiddenUpto+` FROM (SELECT data FROM forgewire.messages
			WHERE channel = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4) m`,
			channel, int64(since.Offset), int64(upto), MaxRecovered+1).Scan(&size, &hidden)
		if err != nil {
			return nil, fmt.Errorf("measure what was missed: %w", err)
		}
		if size > maxRecoveredBytes || since.Offset < hidden {
			return nil, ErrUnrecoverable
		}
		rows, err := l.pool.Query(ctx, `SELECT seq, channel, data, coalesce(meta, '') FROM forgewire.messages
			WHERE channel = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4`,
			channel, int64(since.Offset), int64(upto), MaxRecovered+1)
		if messages, err = collect(rows, err); err != nil {
			return nil, err
		}
	}
	// After the read: what is not retired now was not when we read.
	s, err := readState(ctx, l.pool, since.Offset)
	if err != nil {
		return nil, err
	}
	if s.epoch != since.Epoch || since.Offset < s.retired || !s.valid || len(messages) > MaxRecovered {
		return nil, ErrUnrecoverable
	}
	return messages, nil
}

// History is a page of a channel's messages, and the newest position at the time.
type History struct {
	Messages []Message
	Position Position
}

// HistoryFilter says which messages of a channel to return. Limit 0 returns none, only the position;
// a negative Limit all, at most MaxRecovered.
type HistoryFilter struct {
	Since   *Position // only what came after it, or before it if Reverse
	Limit   int
	Reverse bool // newest first
}

// History reads a channel's messages. It returns ErrUnrecoverable, and the newest position, for a Since that
// the log cannot vouch for.
func (l *Log) History(ctx context.Context, channel string, f HistoryFilter) (History, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	at := uint64(0)
	if f.Since != nil {
		at = f.Since.Offset
	}
	s, err := readState(ctx, l.pool, at)
	if err != nil {
		return History{}, err
	}
	h := History{Position: Position{Offset: s.last, Epoch: s.epoch}}
	if f.Since != nil && f.Since.Epoch != "" && (f.Since.Epoch != s.epoch || at < s.retired && !f.Reverse || !s.valid && at > s.retired) {
		return h, ErrUnrecoverable
	}
	if f.Since != nil && !f.Reverse {
		if hidden, err := l.hidden(ctx, channel); err != nil || at < hidden {
			return h, cmp.Or(err, error(ErrUnrecoverable))
		}
	}
	if f.Limit == 0 {
		return h, nil
	}
	limit := f.Limit
	if limit < 0 || limit > MaxRecovered {
		limit = MaxRecovered
	}
	from, to := int64(at), int64(s.last)+1
	order := "ASC"
	if f.Reverse {
		order = "DESC"
		from = 0
		if f.Since != nil {
			to = int64(at)
		}
	}
	rows, err := l.pool.Query(ctx, `SELECT seq, channel, data, coalesce(meta, '') FROM forgewire.messages
		WHERE channel = $1 AND seq > greatest($2, `+hiddenUpto+`) AND seq < $3 ORDER BY seq `+order+` LIMIT $4`, channel, from, to, limit)
	h.Messages, err = collect(rows, err)
	return h, err
}

// Maintain keeps the log inside its age (against now) and size: it makes partitions ahead, begins a new one
// when the current is an eighth of either, and retires what is over. Any number of replicas may call it.
func (l *Log) Maintain(ctx context.Context, now time.Time, age time.Duration, size int64) error {
	if _, err := l.pool.Exec(ctx, "SELECT forgewire.rotate($1, $2)", now.Add(-age/8), size/8); err != nil {
		return fmt.Errorf("make a partition: %w", err)
	}
	for {
		var did bool
		if err := l.pool.QueryRow(ctx, "SELECT forgewire.retire($1, $2)", now.Add(-age), size).Scan(&did); err != nil {
			return fmt.Errorf("retire a partition: %w", err)
		}
		if !did {
			return nil
		}
	}
}
