package realtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// recordTimeout bounds one transaction; goodbyeTimeout the last.
const (
	recordTimeout  = 10 * time.Second
	goodbyeTimeout = 2 * time.Second
)

// changes are what one transaction says.
type changes struct {
	come, gone []string // channels
	everything bool     // come is all that there is
	holds      bool     // this replica has recorded channels, with these
	events     []webhookEvent
	lease      time.Duration
}

// errLeaseEnded says that others have taken our share away: it must be said again.
var errLeaseEnded = errors.New("this replica's lease had ended")

// record writes what happens here to the database until ctx ends. It looks at the database only while it has
// something to say, or some replica has subscribers of a channel with webhooks.
func (w *webhooks) record(ctx context.Context) error {
	var lookAt time.Time // when the database must be looked at, whatever happens; zero for never
	for w.wait(ctx, w.earliest(lookAt)) {
		now := time.Now()
		c, due := w.take(now, !lookAt.IsZero() && !now.Before(lookAt))
		if !due {
			continue
		}
		at, err := w.write(ctx, c)
		if err != nil {
			w.putBack(c)
			if !errors.Is(err, errLeaseEnded) && ctx.Err() == nil {
				w.logger.Warn("events for the webhooks could not be recorded, trying again", "error", err)
				pause(ctx, flushRetry)
			}
			w.wake()
			continue
		}
		w.recorded(c)
		lookAt = at
		pause(ctx, flushEvery)
	}
	w.goodbye(ctx)
	return nil
}

// wait returns when something has happened or next has come; false when ctx has ended.
func (w *webhooks) wait(ctx context.Context, next time.Time) bool {
	var timer <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(time.Until(next))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-w.woken:
	case <-timer:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// take returns what is to be said now, and whether it is anything.
func (w *webhooks) take(now time.Time, look bool) (c changes, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.lease, c.everything = lease, w.unsure
	for name, o := range w.channels {
		ended := o.shards == 0 && !now.Before(o.left.Add(vacatedAfter))
		switch {
		case o.shards == 0 && !o.recorded:
			delete(w.channels, name) // nobody has heard of it
		case o.recorded && ended:
			c.gone = append(c.gone, name)
		case !o.recorded || c.everything:
			c.come = append(c.come, name)
		}
	}
	c.holds = len(w.channels) > len(c.gone)
	for id, e := range w.arriving {
		if now.UnixMilli() >= e.TimeMS+connectedAfter.Milliseconds() {
			delete(w.arriving, id)
			w.add(e)
		}
	}
	slices.SortStableFunc(w.events, func(a, b webhookEvent) int { return int(a.TimeMS - b.TimeMS) })
	c.events, w.events, w.announced = w.events, nil, false
	due = look || w.look || w.unsure || len(c.come)+len(c.gone)+len(c.events) > 0
	w.look, w.unsure = false, false
	return c, due
}

// putBack keeps what could not be said. Whether it was is not known, so everything is said again.
func (w *webhooks) putBack(c changes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unsure = true
	late := w.events
	w.events = c.events
	for _, e := range late {
		w.add(e)
	}
}

// recorded takes note of what the database has.
func (w *webhooks) recorded(c changes) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range c.come {
		if o := w.channels[name]; o != nil {
			o.recorded = true
		}
	}
	for _, name := range c.gone {
		if o := w.channels[name]; o != nil {
			if o.recorded = false; o.shards == 0 {
				delete(w.channels, name)
			} else {
				w.wake() // it came back meanwhile
			}
		}
	}
}

// earliest returns when something is due next: at, or before it what waits for its time. Zero is never.
func (w *webhooks) earliest(at time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, o := range w.channels {
		if o.shards == 0 {
			sooner(o.left.Add(vacatedAfter))
		}
	}
	for _, e := range w.arriving {
		sooner(time.UnixMilli(e.TimeMS).Add(connectedAfter))
	}
	return at
}

// write says it in one transaction, with the requests that deliver the events, and returns when the database
// must be looked at again: before our lease ends, and when another's does. Zero is never.
func (w *webhooks) write(ctx context.Context, c changes) (next time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		o, err := occupy(ctx, tx, w.replica, c)
		if err != nil {
			return err
		}
		if !o.known {
			return errLeaseEnded
		}
		next = time.Time{}
		if o.others != nil {
			next = time.Now().Add(time.Duration(*o.others * float64(time.Second)))
		}
		if renew := time.Now().Add(renewEvery); c.holds && (next.IsZero() || renew.Before(next)) {
			next = renew
		}
		events := append(o.events(), c.events...)
		if err := w.delivery.insert(ctx, tx, o.at.UnixMilli(), events); err != nil {
			return err
		}
		if len(events) > 0 {
			err = tellIn(ctx, tx, control{Op: opWebhooks})
		}
		if o.first || c.lease != lease {
			err = errors.Join(err, tellIn(ctx, tx, control{Op: opOccupancy}))
		}
		return err
	})
	return next, err
}

// occupancy is what a change of ours has led to.
type occupancy struct {
	known, first      bool
	occupied, vacated []string
	at                time.Time
	others            *float64 // seconds until another replica's lease ends; nil where there is none
}

// occupy calls forgewire.occupy.
func occupy(ctx context.Context, q querier, replica string, c changes) (o occupancy, err error) {
	err = q.QueryRow(ctx, "SELECT known, first, coalesce(occupied, '{}'), coalesce(vacated, '{}'), at, next FROM forgewire.occupy($1, $2, $3, $4, $5, $6)",
		replica, nonNil(c.come), nonNil(c.gone), c.everything, c.holds, c.lease).
		Scan(&o.known, &o.first, &o.occupied, &o.vacated, &o.at, &o.others)
	if err != nil {
		return o, fmt.Errorf("record the occupancy: %w", err)
	}
	return o, nil
}

// nonNil makes an empty array, not NULL, of nothing.
func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (o occupancy) events() []webhookEvent {
	var events []webhookEvent
	for name, channels := range map[string][]string{eventOccupied: o.occupied, eventVacated: o.vacated} {
		for _, channel := range channels {
			events = append(events, webhookEvent{Name: name, Channel: channel, TimeMS: o.at.UnixMilli()})
		}
	}
	slices.SortFunc(events, func(a, b webhookEvent) int { return strings.Compare(a.Channel, b.Channel) })
	return events
}

// goodbye records what is left. Channels are not given up at once: the clients were told to go to other
// replicas, and a channel that they take along has stayed occupied. The lease ends in the time that a
// subscriber has to come back, and whoever looks then, or starts next, reports what was vacated.
func (w *webhooks) goodbye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
	defer cancel()
	w.mu.Lock()
	c := changes{lease: vacatedAfter, events: w.events}
	for _, o := range w.channels {
		c.holds = c.holds || o.recorded
	}
	w.mu.Unlock()
	if !c.holds && len(c.events) == 0 {
		return
	}
	_, err := w.write(ctx, c)
	if errors.Is(err, errLeaseEnded) {
		c.holds, c.everything = false, true
		_, err = w.write(ctx, c)
	}
	if err != nil {
		w.stats.webhooks.dropped.Add(uint64(len(c.events)))
		w.logger.Warn("the last events for the webhooks could not be recorded", "events", len(c.events), "error", err)
	}
}
