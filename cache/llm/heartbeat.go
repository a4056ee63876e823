package llm

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// heart says that this replica lives while it leads, and looks after the leaders that it follows. It returns when
// ctx has ended and what it led is given back.
func (el *elector) heart(ctx context.Context) {
	ticker := time.NewTicker(beat)
	ticker.Stop()
	defer ticker.Stop()
	ticking := false
	for {
		select {
		case <-ticker.C:
		case <-el.wake:
			if ticking && !el.hasUrgent() {
				continue
			}
		case <-ctx.Done():
			el.goodbye(context.WithoutCancel(ctx))
			return
		}
		more := el.beat(ctx)
		if more && !ticking {
			ticker.Reset(beat)
		} else if !more {
			ticker.Stop()
		}
		ticking = more
	}
}

// beat does all that is due. It reports whether another beat is needed.
func (el *elector) beat(ctx context.Context) bool {
	now := time.Now()
	el.mu.Lock()
	busy := len(el.led) > 0 || len(el.watched) > 0 || len(el.landings) > 0 || len(el.noticed) > 0
	if len(el.landings) > 0 || len(el.led) > 0 {
		el.sweepBy = now.Add(landedFor + 2*sweepEvery)
	}
	sweeps := now.Before(el.sweepBy)
	el.ticking = busy || sweeps // what comes from here on rings
	el.mu.Unlock()
	if !busy && !sweeps {
		return false
	}
	if busy {
		el.pulse(ctx, now) // by itself: it must not wait for a row that somebody has locked
		el.touchdown(ctx, el.takeDue(now))
	} else if now.UnixNano()/int64(beat)%int64(sweepEvery/beat) == 0 {
		ctx, cancel := context.WithTimeout(ctx, beatWithin)
		defer cancel()
		b := &pgx.Batch{}
		queueSweep(b)
		_ = el.pool.SendBatch(ctx, b).Close() // another replica, or the next one, sweeps too
	}
	return true
}

// pulse says that this replica lives, hears which of its flights are followed, and looks after the leaders that it
// follows, in one round trip.
func (el *elector) pulse(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	el.mu.Lock()
	leads := len(el.led) > 0
	watched := make([]*watch, 0, len(el.watched))
	for w := range el.watched {
		watched = append(watched, w)
	}
	fresh := el.freshMarks(watched)
	el.mu.Unlock()
	b := &pgx.Batch{}
	b.Queue(sqlSeen, el.owner)
	el.seen.Store(now.UnixNano())
	followed := map[key]bool{}
	if leads {
		b.Queue(`SELECT key FROM forgewire.flights WHERE owner = $1 AND followed AND landed IS NULL`, el.owner).Query(func(rows pgx.Rows) error {
			var k []byte
			_, err := pgx.ForEachRow(rows, []any{&k}, func() error { followed[key(k)] = true; return nil })
			return err
		})
	}
	alive := map[string]bool{}
	queueWatches(b, watched, fresh, alive)
	late := now.Sub(el.looked) > 3*beat
	if err := el.pool.SendBatch(ctx, b).Close(); err != nil {
		return
	}
	el.looked = now
	el.follow(followed)
	el.judge(watched, alive, late || time.Since(now) > beat)
}

// marks is how often a leader is told that somebody follows: a row that is locked is passed over.
const marks = 3

// maxNoticed bounds the answers whose readers are still to be told of. Readers of one more have its events in batches.
const maxNoticed = 1024

// notice has the leader of an answer told, on whichever replica, that a client reads its channel.
func (el *elector) notice(id string) {
	el.mu.Lock()
	defer el.mu.Unlock()
	if _, known := el.noticed[id]; known || len(el.noticed) < maxNoticed {
		el.noticed[id] = 0
		el.stir()
	}
}

// freshMarks are the answers whose leaders are to be told that they are followed. The caller holds mu.
func (el *elector) freshMarks(watched []*watch) (ids []string) {
	for _, w := range watched {
		if w.marked < marks {
			w.marked++
			ids = append(ids, w.id)
		}
	}
	for id := range el.noticed {
		ids = append(ids, id)
		if el.noticed[id]++; el.noticed[id] == marks {
			delete(el.noticed, id)
		}
	}
	return ids
}

func queueWatches(b *pgx.Batch, watched []*watch, fresh []string, alive map[string]bool) {
	var ids []string
	for _, w := range watched {
		ids = append(ids, w.id)
	}
	if len(fresh) > 0 {
		b.Queue(`WITH f AS MATERIALIZED (SELECT key FROM forgewire.flights WHERE id = ANY($1) AND NOT followed AND landed IS NULL FOR UPDATE SKIP LOCKED)
			UPDATE forgewire.flights SET followed = true WHERE key IN (SELECT key FROM f)`, fresh)
	}
	if len(ids) > 0 {
		b.Queue(`SELECT f.id FROM forgewire.flights f JOIN forgewire.flight_owners o USING (owner)
			WHERE f.id = ANY($1) AND (f.landed IS NOT NULL OR o.seen > clock_timestamp() - make_interval(secs => $2))`,
			ids, ownerDead.Seconds()).Query(func(rows pgx.Rows) error {
			var id string
			_, err := pgx.ForEachRow(rows, []any{&id}, func() error { alive[id] = true; return nil })
			return err
		})
	}
}

// lateFor is how long looks that were late themselves count for nothing: where the machine or the database is too
// busy for us, it may be for the leader.
const lateFor = 4 * time.Second

// judge tells the followers of leaders that were found dead in two looks in a row: the first one may have come
// between two beats of a leader whom the same database delayed as it delayed us.
func (el *elector) judge(watched []*watch, alive map[string]bool, late bool) {
	now := time.Now()
	for _, w := range watched {
		if alive[w.id] {
			w.strikes, w.since = 0, time.Time{}
			continue
		}
		if w.since.IsZero() {
			w.since = now
		}
		if late && now.Sub(w.since) < lateFor {
			continue
		}
		if w.strikes++; w.strikes < 2 {
			continue
		}
		el.mu.Lock()
		_, still := el.watched[w]
		delete(el.watched, w)
		el.mu.Unlock()
		if still {
			w.died()
		}
	}
}

// queueSweep removes what has landed, and what replicas left behind that are long dead.
func queueSweep(b *pgx.Batch) {
	b.Queue(`WITH old AS MATERIALIZED (
		SELECT key FROM forgewire.flights f WHERE landed < clock_timestamp() - make_interval(secs => $1) OR landed IS NULL AND NOT EXISTS (
			SELECT FROM forgewire.flight_owners o WHERE o.owner = f.owner AND o.seen > clock_timestamp() - interval '1 minute') FOR UPDATE SKIP LOCKED)
		DELETE FROM forgewire.flights WHERE key IN (SELECT key FROM old)`, landedFor.Seconds())
	b.Queue(`DELETE FROM forgewire.flight_owners WHERE seen < clock_timestamp() - interval '1 hour'`)
}

// goodbye gives back what this replica still leads, so that others replace it at once.
func (el *elector) goodbye(ctx context.Context) {
	el.mu.Lock()
	leading, landings := len(el.led) > 0, el.landings
	el.mu.Unlock()
	if !leading && len(landings) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	b := &pgx.Batch{}
	if len(landings) > 0 {
		el.queueLandings(b, landings, map[key]bool{})
	}
	b.Queue(`DELETE FROM forgewire.flight_owners WHERE owner = $1`, el.owner)
	_ = el.pool.SendBatch(ctx, b).Close() // if it cannot be said, others notice the silence
}

// purge makes sure that nobody joins an answer of the tenant any more that has landed or is under way.
func (el *elector) purge(ctx context.Context, tenant string) error {
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	if _, err := el.pool.Exec(ctx, `WITH f AS MATERIALIZED (SELECT key FROM forgewire.flights WHERE tenant = $1 ORDER BY key FOR UPDATE)
		UPDATE forgewire.flights SET purged = true WHERE key IN (SELECT key FROM f)`, tenant); err != nil {
		return fmt.Errorf("purge answers that are under way: %w", err)
	}
	return nil
}
