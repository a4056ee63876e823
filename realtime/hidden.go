package realtime

import (
	"context"
	"fmt"
)

// hiddenUpto is, in a statement whose $1 is a channel, the number up to which its history was removed.
const hiddenUpto = `(SELECT coalesce(max(hidden.upto), 0) FROM forgewire.hidden WHERE hidden.channel = $1)`

func (l *Log) hidden(ctx context.Context, channel string) (upto uint64, err error) {
	if err = l.pool.QueryRow(ctx, "SELECT "+hiddenUpto, channel).Scan(&upto); err != nil {
		return 0, fmt.Errorf("read what is hidden: %w", err)
	}
	return upto, nil
}

// Hide removes a channel's messages of now from its history and from what can be recovered: nobody gets them
// any more, and a client that had not seen them all is told that something is missing. The log itself drops
// them when their time is over.
func (l *Log) Hide(ctx context.Context, channel string) error {
	_, err := l.pool.Exec(ctx, `WITH over AS (DELETE FROM forgewire.hidden WHERE upto <= (SELECT retired FROM forgewire.log) AND channel <> $1)
		INSERT INTO forgewire.hidden AS h SELECT $1, max(seq) FROM forgewire.messages WHERE channel = $1 HAVING max(seq) IS NOT NULL
		ON CONFLICT (channel) DO UPDATE SET upto = greatest(h.upto, excluded.upto)`, channel)
	if err != nil {
		return fmt.Errorf("hide a channel's history: %w", err)
	}
	return nil
}

// RemoveHistory hides a channel's messages of now; see Log.Hide.
func (n *Node) RemoveHistory(ctx context.Context, channel string) error {
	if why := checkChannel(channel); why != "" {
		return ErrBadRequest.With(why)
	}
	if n.cfg.Namespaces.of(channel).Ephemeral {
		return ErrNotAvailable.With("the channel is ephemeral")
	}
	return n.log.Hide(ctx, channel)
}
