package realtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Why a replica does not serve, or not yet.
var (
	// errLogSet says that the replica's list of logs is not the one that the databases have recorded. It waits: either it is
	// behind and will be replaced, or it is ahead and the set is about to be changed.
	errLogSet     = errors.New("the list of logs of this replica (DATABASE_URL and FORGEWIRE_LOG_DATABASE_URLS) is not the recorded one")
	errSetChanged = errors.New("the set of logs has changed")
)

// unknownSet is the SQLSTATE with which a log refuses whoever does not know its set.
const unknownSet = "FW001"

// knowSet turns a log's refusal into an error that says what is wrong. Nothing was appended.
func knowSet(err error) error {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == unknownSet {
		return ErrInternal.With(errLogSet.Error())
	}
	return err
}

// logSet is what a log's database has recorded of the set that it belongs to.
type logSet struct {
	generation int64 // 0: nothing is recorded, the log is the only one
	place      int
	epochs     []string // of the logs, in their order
	own        string   // this log's epoch
}

func readLogSet(ctx context.Context, q querier) (s logSet, err error) {
	err = q.QueryRow(ctx, "SELECT coalesce(s.generation, 0), coalesce(s.place, 0), coalesce(s.epochs, ARRAY[l.epoch]), l.epoch FROM forgewire.log l LEFT JOIN forgewire.log_set s ON true").
		Scan(&s.generation, &s.place, &s.epochs, &s.own)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, errors.New("the database has no log")
	}
	if err != nil {
		return s, fmt.Errorf("read the set of logs: %w", err)
	}
	return s, nil
}

// differs says what is wrong with a list of so many logs, in which this one has that place, or "".
func (s *logSet) differs(place, logs int) string {
	switch {
	case s.generation == 0 && logs > 1:
		return fmt.Sprintf("it has %d, and no set of several is recorded yet: run `forgewire logs set` with this list", logs)
	case len(s.epochs) != logs:
		return fmt.Sprintf("it has %d, the set has %d: start this replica with the set's list, or run `forgewire logs set` with this one", logs, len(s.epochs))
	case s.place != place || s.epochs[place] != s.own:
		return fmt.Sprintf("its number %d is number %d of the set: the order counts", place, s.place)
	}
	return ""
}

// Verify sees whether the log is the one at that place of a set of so many, and learns what appends need. Outside of a Node,
// it is called before the first Append.
func (l *Log) Verify(ctx context.Context, place, logs int) error {
	set, err := readLogSet(ctx, l.pool)
	if err != nil {
		return err
	}
	if why := set.differs(place, logs); why != "" {
		return fmt.Errorf("%w: %s", errLogSet, why)
	}
	l.generation.Store(set.generation)
	return nil
}

// verify sees whether a log, which has just been reached, is the one that channels are spread for. As long as the first one
// says that it is not, nothing is served.
func (n *Node) verify(ctx context.Context, q querier, s *strand) error {
	set, err := readLogSet(ctx, q)
	if err != nil {
		return err
	}
	why := set.differs(s.place, len(n.strands))
	if first := n.strands[0].set.Load(); why == "" && s.place != 0 && first != nil && first.generation != set.generation {
		why = "the logs do not agree on their set: it is being changed, or `forgewire logs set` was interrupted and must be run again"
	}
	if s.place == 0 {
		n.serveSet(why == "")
	}
	if why != "" {
		return fmt.Errorf("%w: %s", errLogSet, why)
	}
	s.set.Store(&set)
	s.log.generation.Store(set.generation)
	s.publisher.log.generation.Store(set.generation)
	for _, f := range n.forwarders {
		f.ring()
	}
	return nil
}

// serveSet begins to serve, or ends: clients go to a replica that knows where their channels are.
func (n *Node) serveSet(known bool) {
	if was := n.foreign.Swap(!known); known || was {
		return
	}
	n.logger.Error("another set of logs is recorded than this replica has: it serves nobody")
	for _, c := range n.hub.all() {
		c.disconnect(disconnectOld)
	}
}
