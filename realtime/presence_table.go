package realtime

import (
	"context"
	"fmt"
	"time"

	"github.com/centrifugal/protocol"
	"github.com/jackc/pgx/v5"
)

// What had become of the lease when it was renewed.
const (
	leaseNew     = "new"
	leaseRetired = "retired"
)

// memberWrite is one statement: rows to write, rows to delete, notifications to send.
type memberWrite struct {
	channels, clients, users    []string
	connInfos, chanInfos        []*string
	goneChannels, goneClients   []string
	events                      []string
	was                         string // the answer: what had become of the lease
	places                      []place
	counted                     bool
	membersFound, membersWanted int64
}

// write stores a batch, in statements of bounded size: first who is there, then the notifications. What could
// not be stored goes back.
func (p *presence) write(ctx context.Context, b *batch, renew bool) error {
	for len(b.places) > 0 || renew {
		n := min(len(b.places), maxMemberWrites)
		w := p.gather(b.places[:n])
		w.counted = renew && n == len(b.places)
		if err := p.send(ctx, w); err != nil {
			p.giveBack(b, n)
			return err
		}
		p.stored(w)
		b.places = b.places[n:]
		if w.counted {
			break
		}
	}
	events, counts := packNews(b.news)
	for len(events) > 0 {
		n := min(len(events), maxNewsWrites)
		w := &memberWrite{events: events[:n]}
		if err := p.send(ctx, w); err != nil {
			p.giveBack(b, 0)
			return err
		}
		p.stored(w)
		for _, c := range counts[:n] {
			b.news = b.news[c:]
		}
		events, counts = events[n:], counts[n:]
	}
	if !renew {
		return nil
	}
	p.renewAt = time.Now().Add(leaseRenewal)
	return p.retire(ctx)
}

// gather looks up what is to be written of places as it is now.
func (p *presence) gather(places []place) *memberWrite {
	w := &memberWrite{places: places}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range places {
		s := p.seats[at]
		switch s.dirty = false; {
		case s.info != nil:
			w.channels, w.clients, w.users = append(w.channels, at.channel), append(w.clients, at.client), append(w.users, s.info.User)
			w.connInfos, w.chanInfos = append(w.connInfos, orNull(s.info.ConnInfo)), append(w.chanInfos, orNull(s.info.ChanInfo))
			s.written = true // if this fails, nobody knows
		case s.written:
			w.goneChannels, w.goneClients = append(w.goneChannels, at.channel), append(w.goneClients, at.client)
		default:
			delete(p.seats, at) // came and went between two batches
		}
	}
	return w
}

func orNull(b []byte) *string {
	if len(b) == 0 {
		return nil
	}
	s := string(b)
	return &s
}

func (p *presence) send(ctx context.Context, w *memberWrite) error {
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	var found *int64
	err := p.pool.QueryRow(ctx, "SELECT was, members FROM forgewire.presence_write($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
		p.id, p.name, leaseTime, some(w.channels), some(w.clients), some(w.users), some(w.connInfos), some(w.chanInfos),
		some(w.goneChannels), some(w.goneClients), some(w.events), w.counted).Scan(&w.was, &found)
	if err != nil {
		return fmt.Errorf("write presence: %w", err)
	}
	if found != nil {
		w.membersFound = *found
	}
	return nil
}

// some keeps pgx from sending NULL for an array without elements.
func some[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// stored notes that w is in the table. If the lease or rows had been lost, everything is to be written again;
// if it had been retired, others were told that our members left, so they are told that these are back.
func (p *presence) stored(w *memberWrite) {
	held := p.leased.Swap(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range w.places {
		if s := p.seats[at]; s != nil && s.info == nil && !s.dirty {
			delete(p.seats, at)
		}
	}
	lost := w.was == leaseRetired || w.was == leaseNew && held
	if w.counted && !lost {
		for _, s := range p.seats {
			if s.written {
				w.membersWanted++
			}
		}
		lost = w.membersFound != w.membersWanted
	}
	if !lost {
		return
	}
	for at, s := range p.seats {
		if s.info == nil {
			continue
		}
		p.touch(at, s)
		if w.was == leaseRetired && p.announces(at.channel) {
			p.tell(news{Channel: at.channel, Join: true, Info: infoOf(s.info)})
		}
	}
	p.ring()
}

// giveBack puts what could not be stored back before what came since. The first of the places were gathered; the rest are
// dirty still, but in no list.
func (p *presence) giveBack(b *batch, gathered int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dirty = append(p.dirty, b.places[gathered:]...)
	for _, at := range b.places[:gathered] {
		if s := p.seats[at]; s != nil {
			p.touch(at, s)
		}
	}
	p.recheck = p.recheck || b.recheck
	since := p.news
	p.news = b.news
	p.tell(since...)
}

// retire ends the leases of dead replicas, and tells who left with them in the same transaction: a survivor
// that dies meanwhile leaves all of it to the next one.
func (p *presence) retire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*presenceTimeout)
	defer cancel()
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT channel, client, "user", coalesce(conn_info, ''), coalesce(chan_info, '') FROM forgewire.presence_retire()`)
		gone, err := collectMembers(rows, err)
		if err != nil {
			return fmt.Errorf("retire leases: %w", err)
		}
		var left []news
		for _, g := range gone {
			if p.announces(g.channel) {
				left = append(left, news{Channel: g.channel, Info: infoOf(g.info)})
			}
		}
		events, _ := packNews(left)
		if len(events) == 0 {
			return nil
		}
		if _, err = tx.Exec(ctx, "SELECT count(pg_notify($1, e)) FROM unnest($2::text[]) AS e", notifyLog, events); err != nil {
			return fmt.Errorf("tell who left: %w", err)
		}
		return nil
	})
}

// release gives up the lease of a replica that has nobody.
func (p *presence) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	_, err := p.pool.Exec(ctx, "DELETE FROM forgewire.replicas WHERE id = $1", p.id)
	if err != nil {
		return fmt.Errorf("give up the lease: %w", err)
	}
	p.leased.Store(false)
	if p.busy() {
		p.ring() // a client came meanwhile, and saw that there was a lease
	}
	return nil
}

// quit writes what is left to write, and gives up the lease. If the database is away, the lease ends by itself.
func (p *presence) quit(ctx context.Context) {
	b := p.take(time.Now().Add(leaveDelay)) // no time to see who comes back
	var err error
	if !b.empty() {
		err = p.write(ctx, b, false)
	}
	p.finished(b)
	if err == nil && p.leased.Load() {
		err = p.release(ctx)
	}
	if err != nil {
		p.logger.Warn("presence could not be left in order; it ends with the lease", "error", err)
	}
}

type memberRow struct {
	channel string
	info    *protocol.ClientInfo
}

func collectMembers(rows pgx.Rows, err error) ([]memberRow, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m memberRow, err error) {
		var conn, channel string
		m.info = &protocol.ClientInfo{}
		err = row.Scan(&m.channel, &m.info.Client, &m.info.User, &conn, &channel)
		m.info.ConnInfo, m.info.ChanInfo = raw(conn), raw(channel)
		return m, err
	})
}

func raw(s string) protocol.Raw {
	if s == "" {
		return nil
	}
	return protocol.Raw(s)
}
