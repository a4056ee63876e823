package realtime

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// hiddenUpto is, in a statement whose $1 is a channel, the number up to which its history was removed.
const hiddenUpto = `(SELECT coalesce(max(hidden.upto), 0) FROM forgewire.hidden WHERE hidden.channel = $1)`

// Hide removes a channel's messages of now from its history and from what can be recovered: nobody gets them
// any more, and a client that had not seen them all is told that something is missing. The log itself drops
// them when their time is over.
//
// It returns the number of the newest message that it hid, 0 if there was none.
func (l *Log) Hide(ctx context.Context, channel string) (upto uint64, err error) {
	err = l.pool.QueryRow(ctx, `WITH over AS (DELETE FROM forgewire.hidden WHERE upto <= (SELECT retired FROM forgewire.log) AND channel <> $1),
		hides AS (
			INSERT INTO forgewire.hidden AS h SELECT $1, max(seq) FROM forgewire.messages WHERE channel = $1 HAVING max(seq) IS NOT NULL
			ON CONFLICT (channel) DO UPDATE SET upto = greatest(h.upto, excluded.upto) RETURNING upto)
		SELECT coalesce((SELECT upto FROM hides), 0)`, channel).Scan(&upto)
	if err != nil {
		return 0, fmt.Errorf("hide a channel's history: %w", err)
	}
	return upto, nil
}

// RemoveHistory hides a channel's messages of now; see Log.Hide.
func (n *Node) RemoveHistory(ctx context.Context, channel string) error {
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	if n.cfg.Namespaces.of(channel).Ephemeral {
		return ErrNotAvailable.With("the channel is ephemeral")
	}
	s := n.strandOf(channel)
	upto, err := s.log.Hide(ctx, channel)
	if err != nil || upto == 0 {
		return err
	}
	s.in.tail.hide(channel, upto) // here at once, elsewhere with the notification
	return tellIn(ctx, s.log.pool, control{Op: opHide, Channel: channel, Offset: upto})
}

// readHidden learns of what was hidden while this replica did not listen, as far as the log's tail could still tell
// it. LISTEN is in force by now.
func (s *strand) readHidden(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, "SELECT channel, upto FROM forgewire.hidden WHERE upto > $1", int64(s.in.tail.position()))
	if err != nil {
		return fmt.Errorf("read what is hidden: %w", err)
	}
	var channel string
	var upto uint64
	if _, err = pgx.ForEachRow(rows, []any{&channel, &upto}, func() error {
		s.in.tail.hide(channel, upto)
		return nil
	}); err != nil {
		return fmt.Errorf("read what is hidden: %w", err)
	}
	return nil
}
