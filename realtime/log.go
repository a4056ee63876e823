package realtime

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
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
	pool  *pgxpool.Pool
	turns chan struct{} // see turn
	// generation is that of the set of logs for which channels are chosen, or 0 where no set was ever recorded. A log refuses
	// what is appended for another one than its own.
	generation atomic.Int64
}

// NewLog returns the log that lives in pool's database.
func NewLog(pool *pgxpool.Pool) *Log {
	return &Log{pool: pool, turns: make(chan struct{}, maxTurns)}
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
	if err := appendTo(ctx, l.pool, l.generation.Load(), messages); err != nil {
		return 0, err
	}
	return messages[0].Offset, nil
}

// appendTo writes messages in one transaction and one round trip and sets the offsets of those that are
// stored. It returns after the commit. On an error that is not pgconn.SafeToRetry nobody knows whether they
// were appended. Where messages have keys it may take a round trip and a transaction more: see appendOnce.
func appendTo(ctx context.Context, q querier, generation int64, messages []Message) error {
	for i := range messages {
		if messages[i].Key != "" {
			return appendOnce(ctx, q, generation, messages)
		}
	}
	_, err := appendBatch(ctx, q, generation, messages, nil)
	return err
}

// appendBatch appends all messages, unless one of the keyed ones, whose indexes those are, was published
// before: then it sets the offsets of these alone, to the first one's, and returns their indexes.
func appendBatch(ctx context.Context, q querier, generation int64, messages []Message, keyed []int) (known []int, err error) {
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
			return nil, fmt.Errorf("notify of messages: %w", err)
		}
		return nil, nil
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
	args := []any{channels, datas, nullable, bodies, counts, others}
	var base uint64
	switch {
	case len(keyed) > 0:
		base, known, err = queryOnce(ctx, q, generation, messages, keyed, args)
	case generation != 0:
		err = q.QueryRow(ctx, "SELECT forgewire.append_at($7, $1, $2, $3, $4, $5, $6)", append(args, generation)...).Scan(&base)
	default:
		err = q.QueryRow(ctx, "SELECT forgewire.append($1, $2, $3, $4, $5, $6)", args...).Scan(&base)
	}
	if err != nil {
		return nil, fmt.Errorf("append messages: %w", knowSet(err))
	}
	for i := range messages {
		if len(known) == 0 && !messages[i].ephemeral {
			messages[i].Offset = base
			base++
		}
	}
	return known, nil
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
	err := s.scan(q.QueryRow(ctx, "SELECT "+stateOf("$1")+" FROM forgewire.log l", int64(at)), at)
	return s, err
}

// stateOf are the columns of forgewire.log l that a logState is read from; at is the parameter.
func stateOf(at string) string {
	return strings.ReplaceAll(`l.epoch, l.retired, greatest(l.retired, (SELECT max(seq) FROM forgewire.messages)),
		EXISTS (SELECT FROM forgewire.incarnations i WHERE $at >= i.base - 1 AND $at <= coalesce(i.last, $at)),
		greatest(l.retired, (SELECT max(seq) FROM forgewire.messages WHERE seq <= $at))`, "$at", at)
}

// scan reads those columns, and more.
func (s *logState) scan(row pgx.Row, at uint64, more ...any) error {
	if err := row.Scan(append([]any{&s.epoch, &s.retired, &s.last, &s.valid, &s.survived}, more...)...); err != nil {
		return fmt.Errorf("read the log's state: %w", err)
	}
	s.valid = s.valid && at <= s.last
	return nil
}

// Bounds of one read of a gap, or of what was too large to ride in a notification.
const (
	readMessages = 1000
	readBytes    = 4 << 20
)

// readRange returns the first messages after from and before to, in order: at least one if there is one.
func readRange(ctx context.Context, q querier, from, to uint64) ([]Message, error) {
	rows, err := q.Query(ctx, firstOf("WHERE seq > $3 AND seq < $4 ORDER BY seq", "ASC"), readMessages, readBytes, int64(from), int64(to))
	return collect(rows, err)
}

// firstOf selects the first $1 of the messages that the clause finds, but no more than begin within $2 bytes of data and meta,
// and at least one if there is one.
func firstOf(clause, order string) string {
	return `SELECT seq, channel, data, coalesce(meta, ''), clock_timestamp() - published_at FROM (
			SELECT m.*, sum(size) OVER (ORDER BY seq ` + order + `) - size AS before FROM (
				SELECT *, octet_length(data) + coalesce(octet_length(meta), 0) AS size FROM forgewire.messages ` + clause + ` LIMIT $1) m) m
		WHERE before < $2 ORDER BY seq ` + order
}

func collect(rows pgx.Rows, err error) ([]Message, error) {
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	messages, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Message, err error) {
		var data, meta string
		var age time.Duration
		if err = row.Scan(&m.Offset, &m.Channel, &data, &meta, &age); err != nil {
			return m, err
		}
		m.published = time.Now().Add(-age)
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

// maxHistoryBytes bounds a page of history: all of it is in memory several times on its way.
const maxHistoryBytes = maxRecoveredBytes

// History is a page of a channel's messages, and the newest position at the time.
type History struct {
	Messages []Message
	Position Position
}

// HistoryFilter says which messages of a channel to return. Limit 0 returns none, only the position;
// a negative Limit all, at most MaxRecovered and 4 MiB; whoever wants more goes on from the last one.
type HistoryFilter struct {
	Since   *Position // only what came after it, or before it if Reverse
	Limit   int
	Reverse bool // newest first

	kept kept // what the channel's namespace keeps
}

// History reads a channel's messages. It returns ErrUnrecoverable, and the newest position, for a Since that
// the log cannot vouch for.
func (l *Log) History(ctx context.Context, channel string, f HistoryFilter) (History, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if f.Limit != 0 {
		done, err := l.turn(ctx)
		if err != nil {
			return History{}, err
		}
		defer done()
	}
	at := uint64(0)
	if f.Since != nil {
		at = min(f.Since.Offset, math.MaxInt64) // no log comes that far: it is from the future
	}
	var s logState
	var cut uint64 // the newest of the channel's messages that are not kept any more, or were removed, or 0
	err := s.scan(l.pool.QueryRow(ctx, "SELECT "+stateOf("$4")+", greatest(forgewire.cut($1, $2, clock_timestamp() - $3::interval), "+hiddenUpto+") FROM forgewire.log l",
		channel, f.kept.size, f.kept.age(), int64(at)), at, &cut)
	if err != nil {
		return History{}, err
	}
	h := History{Position: Position{Offset: s.last, Epoch: s.epoch}}
	if f.Since != nil && f.Since.Epoch != "" && (f.Since.Epoch != s.epoch || at < s.retired && !f.Reverse || !s.valid && at > s.retired) {
		return h, ErrUnrecoverable
	}
	if f.Since != nil && !f.Reverse && (cut > at || at > s.last) {
		return h, ErrUnrecoverable
	}
	if f.Limit == 0 {
		return h, nil
	}
	limit := f.Limit
	if limit < 0 || limit > MaxRecovered {
		limit = MaxRecovered
	}
	from, to := int64(max(at, cut)), int64(s.last)+1
	order := "ASC"
	if f.Reverse {
		order = "DESC"
		from = int64(cut)
		if f.Since != nil {
			to = min(to, int64(at))
		}
	}
	rows, err := l.pool.Query(ctx, firstOf("WHERE channel = $3 AND seq > $4 AND seq < $5 ORDER BY seq "+order, order), limit, maxHistoryBytes, channel, from, to)
	h.Messages, err = collect(rows, err)
	return h, err
}

// Maintain keeps the log inside its age and size: it makes partitions ahead, begins a new one when the current is an eighth of
// either, and retires what is over. It also forgets old keys. Any number of replicas may call it. The server's clock alone
// counts: by one replica's that is ahead, all would be retired.
func (l *Log) Maintain(ctx context.Context, age time.Duration, size int64) error {
	if _, err := l.pool.Exec(ctx, "SELECT forgewire.rotate(clock_timestamp() - $1::interval, $2)", age/8, size/8); err != nil {
		return fmt.Errorf("make a partition: %w", err)
	}
	for {
		var did bool
		if err := l.pool.QueryRow(ctx, "SELECT forgewire.retire(clock_timestamp() - $1::interval, $2)", age, size).Scan(&did); err != nil {
			return fmt.Errorf("retire a partition: %w", err)
		}
		if !did {
			return l.forgetKeys(ctx)
		}
	}
}
