package realtime

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bounds of one recovery. A client that missed more starts anew: it would wait longer for the past than
// the present is worth, and the reply would not fit its queue.
const (
	MaxRecovered      = 10_000  // messages
	maxRecoveredBytes = 4 << 20 // of data and meta
)

// kept says how much of a channel's past its clients get, beside what the log has: zero is all of it.
type kept struct {
	size int           // its newest messages
	ttl  time.Duration // what is younger
}

func (o ChannelOptions) kept() kept {
	return kept{size: o.HistorySize, ttl: time.Duration(o.HistoryTTL)}
}

// age is ttl as SQL takes it: nil for any. The server compares it with its own clock, which wrote the messages' times; a
// replica's may be wrong.
func (k kept) age() *time.Duration {
	if k.ttl == 0 {
		return nil
	}
	return &k.ttl
}

// recover returns the channel's messages after since, up to and including upto: all of them, or
// ErrUnrecoverable. A since after upto is one that this replica has not reached yet.
//
// It is one statement: its snapshot is taken when it has its lock on the table, so what it finds not retired
// cannot have been dropped under it. Rows that will not be sent do not leave the server.
func (l *Log) recover(ctx context.Context, channel string, since Position, upto uint64, k kept) ([]*Message, error) {
	done, err := l.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	limit := MaxRecovered
	if k.size > 0 {
		limit = min(limit, k.size)
	}
	rows, err := l.pool.Query(ctx, `WITH missed AS MATERIALIZED (
			SELECT seq, data, meta, published_at FROM forgewire.messages
			WHERE channel = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4 + 1),
		judged AS (
			SELECT l.epoch = $5 AND $2 >= greatest(l.retired, `+hiddenUpto+`)
				AND $2 <= greatest(l.retired, (SELECT max(seq) FROM forgewire.messages))
				AND EXISTS (SELECT FROM forgewire.incarnations i WHERE $2 >= i.base - 1 AND $2 <= coalesce(i.last, $2))
				AND m.n <= $4 AND m.size <= $6 AND m.oldest >= coalesce(clock_timestamp() - $7::interval, '-infinity') AS good
			FROM forgewire.log l, (SELECT count(*) AS n, coalesce(sum(octet_length(data) + coalesce(octet_length(meta), 0)), 0) AS size,
				coalesce(min(published_at), 'infinity'::timestamptz) AS oldest FROM missed) m)
		SELECT j.good, coalesce(m.seq, 0), coalesce(m.data, ''), coalesce(m.meta, '')
		FROM judged j LEFT JOIN missed m ON j.good ORDER BY m.seq`,
		channel, int64(since.Offset), int64(upto), limit, since.Epoch, maxRecoveredBytes, k.age())
	if err != nil {
		return nil, fmt.Errorf("read what was missed: %w", err)
	}
	var missed []*Message
	var good bool
	var seq uint64
	var data, meta string
	_, err = pgx.ForEachRow(rows, []any{&good, &seq, &data, &meta}, func() error {
		if seq == 0 {
			return nil
		}
		m := &Message{Offset: seq, Channel: channel, Data: []byte(data)}
		missed = append(missed, m)
		var err error
		m.Meta, err = decodeMeta(meta)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what was missed: %w", err)
	}
	if !good {
		return nil, ErrUnrecoverable
	}
	return missed, nil
}

// latest returns the channel's newest message up to upto, or nil.
func (l *Log) latest(ctx context.Context, channel string, upto uint64, k kept) (*Message, error) {
	done, err := l.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := l.pool.Query(ctx, `SELECT seq, channel, data, coalesce(meta, ''), clock_timestamp() - published_at FROM forgewire.messages
		WHERE channel = $1 AND seq > `+hiddenUpto+` AND seq <= $2 ORDER BY seq DESC LIMIT 1`, channel, int64(upto))
	found, err := collect(rows, err)
	if err != nil || len(found) == 0 || expired(&found[0], k) {
		return nil, err
	}
	return &found[0], nil
}

func expired(m *Message, k kept) bool {
	return k.ttl > 0 && time.Since(m.published) > k.ttl
}

// past is where a Node reads a channel's past: the channel's Log, but in the simulation.
type past interface {
	recover(ctx context.Context, channel string, since Position, upto uint64, k kept) ([]*Message, error)
	latest(ctx context.Context, channel string, upto uint64, k kept) (*Message, error)
}

// recover returns what a subscriber missed: from the tail where that has it, else from the log.
func (n *Node) recover(ctx context.Context, channel string, since Position, upto uint64, k kept) ([]*Message, error) {
	s := n.strandOf(channel)
	if missed, ok, err := s.in.tail.recover(channel, since, upto, k); ok {
		return missed, err
	}
	return s.past.recover(ctx, channel, since, upto, k)
}

// latest returns what a cache channel's subscriber begins with.
func (n *Node) latest(ctx context.Context, channel string, upto uint64, k kept) (*Message, error) {
	s := n.strandOf(channel)
	if m := s.in.tail.latest(channel, upto); m != nil {
		if expired(m, k) {
			return nil, nil
		}
		return m, nil
	}
	return s.past.latest(ctx, channel, upto, k)
}
