package llm

import (
	"context"
	"fmt"
	"slices"
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
			if ticking && !el.hasLandings() {
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

func (el *elector) hasLandings() bool {
	el.mu.Lock()
	defer el.mu.Unlock()
	return len(el.landings) > 0
}

// beat does all that is due in one round trip. It reports whether another beat is needed.
func (el *elector) beat(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	el.mu.Lock()
	landings := el.landings
	el.landings = nil
	watched := make([]*watch, 0, len(el.watched))
	var ids []string
	for w := range el.watched {
		watched = append(watched, w)
		ids = append(ids, w.id)
	}
	now := time.Now()
	if len(landings) > 0 || len(el.led) > 0 {
		el.sweepBy = now.Add(landedFor + 2*sweepEvery)
	}
	busy, sweeps := len(el.led) > 0 || len(watched) > 0 || len(landings) > 0, now.Before(el.sweepBy)
	el.mu.Unlock()
	if !busy && !sweeps {
		return false
	}
	b := &pgx.Batch{}
	if busy {
		b.Queue(sqlSeen, el.owner)
		el.seen.Store(now.UnixNano())
	}
	el.queueLandings(b, landings)
	if !busy && now.UnixNano()/int64(beat)%int64(sweepEvery/beat) == 0 {
		queueSweep(b)
	}
	alive := map[string]bool{}
	if len(ids) > 0 {
		b.Queue(`SELECT f.id FROM forgewire.flights f JOIN forgewire.flight_owners o USING (owner)
			WHERE f.id = ANY($1) AND (f.landed IS NOT NULL OR o.seen > clock_timestamp() - make_interval(secs => $2))`,
			ids, ownerDead.Seconds()).Query(func(rows pgx.Rows) error {
			var id string
			_, err := pgx.ForEachRow(rows, []any{&id}, func() error { alive[id] = true; return nil })
			return err
		})
	}
	if b.Len() == 0 {
		return true
	}
	if err := el.pool.SendBatch(ctx, b).Close(); err != nil {
		el.mu.Lock()
		defer el.mu.Unlock()
		el.landings = append(landings, el.landings...) // again with the next beat; a doubled one does nothing
		el.landings = el.landings[:min(len(el.landings), maxElections)]
		return true
	}
	el.judge(watched, alive)
	return true
}

// judge tells the followers of leaders that were found dead in two looks in a row: the first one may have come
// between two beats of a leader whom the same database delayed as it delayed us.
func (el *elector) judge(watched []*watch, alive map[string]bool) {
	for _, w := range watched {
		if alive[w.id] {
			w.strikes = 0
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

func (el *elector) queueLandings(b *pgx.Batch, landings []landing) {
	var kept, gone [][]byte
	var keptAttempts, goneAttempts []int32
	slices.SortFunc(landings, func(a, b landing) int { return slices.Compare(a.key[:], b.key[:]) })
	for i := range landings {
		if l := &landings[i]; l.keep {
			kept, keptAttempts = append(kept, l.key[:]), append(keptAttempts, int32(l.attempt))
		} else {
			gone, goneAttempts = append(gone, l.key[:]), append(goneAttempts, int32(l.attempt))
		}
	}
	const ours = ` FROM unnest($1::bytea[], $2::int[]) AS l(key, attempt) WHERE f.key = l.key AND f.attempt = l.attempt AND f.owner = $3`
	if kept != nil {
		// A purge that came while the answer was generated does not find it in the cache, but leaves its mark here.
		b.Queue(`UPDATE forgewire.flights f SET landed = clock_timestamp()`+ours+` RETURNING f.key, f.purged`, kept, keptAttempts, el.owner).Query(
			func(rows pgx.Rows) error {
				var k []byte
				var purged bool
				_, err := pgx.ForEachRow(rows, []any{&k, &purged}, func() error {
					if purged {
						el.forget(key(k))
					}
					return nil
				})
				return err
			})
	}
	if gone != nil {
		b.Queue(`DELETE FROM forgewire.flights f USING`+ours[len(" FROM"):], gone, goneAttempts, el.owner)
	}
}

// queueSweep removes what has landed, and what replicas left behind that are long dead.
func queueSweep(b *pgx.Batch) {
	b.Queue(`DELETE FROM forgewire.flights f WHERE landed < clock_timestamp() - make_interval(secs => $1) OR landed IS NULL AND NOT EXISTS (
		SELECT FROM forgewire.flight_owners o WHERE o.owner = f.owner AND o.seen > clock_timestamp() - interval '1 minute')`, landedFor.Seconds())
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
	el.queueLandings(b, landings)
	b.Queue(`DELETE FROM forgewire.flight_owners WHERE owner = $1`, el.owner)
	_ = el.pool.SendBatch(ctx, b).Close() // if it cannot be said, others notice the silence
}

// purge makes sure that nobody joins an answer of the tenant any more that has landed or is under way.
func (el *elector) purge(ctx context.Context, tenant string) error {
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	if _, err := el.pool.Exec(ctx, `UPDATE forgewire.flights SET purged = true WHERE tenant = $1`, tenant); err != nil {
		return fmt.Errorf("purge answers that are under way: %w", err)
	}
	return nil
}
