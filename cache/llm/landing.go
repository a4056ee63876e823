package llm

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// A landing is the end of a flight that this replica led. Landings wait for a beat and share it.
type landing struct {
	*lease
	how  landingKind
	due  time.Time
	gone chan bool // buffered; of endUnlessFollowed
}

type landingKind int

const (
	endGone           landingKind = iota // there is no answer to join
	endKept                              // complete, and in its channel: others may still look for it
	endUnlessFollowed                    // in no channel: it is gone, unless somebody follows it
)

// land ends a flight that this replica led. What is no answer is taken away at once.
func (el *elector) land(l *lease, keep bool) {
	el.mu.Lock()
	defer el.mu.Unlock()
	if el.led[l.key] == l {
		delete(el.led, l.key)
	}
	how := endGone
	if keep {
		how = endKept
	}
	el.queue(landing{lease: l, how: how}, keep)
}

// leave ends a flight whose answer was not written to its channel. It is told true when the flight is gone, and false
// if another replica has joined it, waits for the answer, and the flight has to land otherwise. An answer that is in
// the cache lingers, for who looked there just before.
func (el *elector) leave(l *lease, lingers bool) <-chan bool {
	gone := make(chan bool, 1)
	el.mu.Lock()
	defer el.mu.Unlock()
	if l.isFollowed() {
		gone <- false
		return gone
	}
	el.queue(landing{lease: l, how: endUnlessFollowed, gone: gone}, lingers)
	return gone
}

// queue takes a landing for the next beat; one that is not lazy does not wait for it. The caller holds mu. There are
// never more of them than flights, but where the database has been away.
func (el *elector) queue(l landing, lazy bool) {
	if lazy {
		l.due = time.Now()
		if l.how == endUnlessFollowed {
			l.due = l.due.Add(beat)
		}
	}
	if len(el.landings) < 2*maxElections {
		el.landings = append(el.landings, l)
	} else if l.gone != nil {
		l.gone <- true // it is swept when this replica is long gone; until then others ask for themselves
	}
	if !lazy || el.hurry {
		el.ring()
	}
}

// hasUrgent says whether a landing does not wait for the beat.
func (el *elector) hasUrgent() bool {
	el.mu.Lock()
	defer el.mu.Unlock()
	return len(el.landings) > 0 && (el.hurry || slices.ContainsFunc(el.landings, func(l landing) bool { return l.due.IsZero() }))
}

// noLinger lets no landing wait from now on.
func (el *elector) noLinger() {
	el.mu.Lock()
	defer el.mu.Unlock()
	el.hurry = true
	el.ring()
}

// takeDue takes the landings whose time has come.
func (el *elector) takeDue(now time.Time) (due []landing) {
	el.mu.Lock()
	defer el.mu.Unlock()
	var rest []landing
	for _, l := range el.landings {
		if el.hurry || !l.due.After(now) {
			due = append(due, l)
		} else {
			rest = append(rest, l)
		}
	}
	el.landings = rest
	return due
}

// follow tells the leader of flights that others read along. What waits to be gone stays.
func (el *elector) follow(keys map[key]bool) {
	el.mu.Lock()
	defer el.mu.Unlock()
	for k := range keys {
		if l := el.led[k]; l != nil && !l.isFollowed() {
			close(l.followed)
		}
	}
	el.landings = slices.DeleteFunc(el.landings, func(l landing) bool {
		stays := l.how == endUnlessFollowed && keys[l.key]
		if stays {
			l.gone <- false
		}
		return stays
	})
}

// touchdown lands what is due, in one round trip. It keeps what the database did not take for the next beat.
func (el *elector) touchdown(ctx context.Context, due []landing) {
	if len(due) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, beatWithin)
	defer cancel()
	b := &pgx.Batch{}
	gone := map[key]bool{}
	el.queueLandings(b, due, gone)
	if err := el.pool.SendBatch(ctx, b).Close(); err != nil {
		el.mu.Lock()
		defer el.mu.Unlock()
		for i := range due {
			due[i].due = time.Now()
		}
		el.landings = append(due, el.landings...) // a doubled one does nothing
		return
	}
	el.mu.Lock()
	defer el.mu.Unlock()
	for _, l := range due {
		if l.how != endUnlessFollowed {
			continue
		}
		if gone[l.key] && el.led[l.key] == l.lease {
			delete(el.led, l.key)
		}
		l.gone <- gone[l.key]
	}
}

// queueLandings makes the statements. They lock the rows in the order of the keys first, as elections do.
func (el *elector) queueLandings(b *pgx.Batch, landings []landing, gone map[key]bool) {
	var all [][]byte
	var keys [3][][]byte
	var attempts [3][]int32
	cached := make(map[key]key, len(landings))
	for i := range landings {
		l := &landings[i]
		all, cached[l.key] = append(all, l.key[:]), l.cached
		keys[l.how], attempts[l.how] = append(keys[l.how], l.key[:]), append(attempts[l.how], int32(l.attempt))
	}
	b.Queue(`SELECT FROM forgewire.flights WHERE key = ANY($1) ORDER BY key FOR UPDATE`, all)
	const (
		from = ` unnest($1::bytea[], $2::int[]) AS l(key, attempt)
			WHERE f.key = l.key AND f.attempt = l.attempt AND f.owner = $3`
		returning = ` RETURNING f.key, f.purged`
	)
	// A purge that came while the answer was generated may not have found it in the cache, but leaves its mark here.
	ended := func(into map[key]bool) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			var k []byte
			var purged bool
			_, err := pgx.ForEachRow(rows, []any{&k, &purged}, func() error {
				if into != nil {
					into[key(k)] = true
				}
				if purged {
					el.forget(cached[key(k)])
				}
				return nil
			})
			return err
		}
	}
	if len(keys[endKept]) > 0 {
		b.Queue(`UPDATE forgewire.flights f SET landed = clock_timestamp() FROM`+from+returning, keys[endKept], attempts[endKept], el.owner).Query(ended(nil))
	}
	if len(keys[endUnlessFollowed]) > 0 {
		b.Queue(`DELETE FROM forgewire.flights f USING`+from+` AND NOT f.followed`+returning, keys[endUnlessFollowed], attempts[endUnlessFollowed], el.owner).Query(ended(gone))
	}
	if len(keys[endGone]) > 0 {
		b.Queue(`DELETE FROM forgewire.flights f USING`+from, keys[endGone], attempts[endGone], el.owner)
	}
}
