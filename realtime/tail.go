package realtime

import (
	"sort"
	"sync"
	"time"
)

// Bounds of the tail.
const (
	maxTailMessages = 8192
	maxTailBytes    = 4 << 20 // of data and meta
)

// tail holds the log's newest messages, of all channels, as this replica delivered them. After Postgres was
// away, or a deploy, thousands of clients come back at once, each a little behind: what they missed is here,
// so the database is not asked by each. The follower's goroutine writes it, before the shards are told, so
// that it is never behind what a client was given; whoever subscribes reads it.
//
// It vouches only for what it has seen: a position that is not one of its messages', nor the one that it
// begins after, may have been lost or be another replica's, and the log must judge it.
type tail struct {
	limit int           // messages
	age   time.Duration // how long a message is told from here: the log's retention; 0 for ever

	mu        sync.RWMutex
	ring      []*Message // of limit, made with the first message
	first     int        // index of the oldest
	count     int
	bytes     int
	byChannel map[string][]*Message // each channel's, oldest first
	epoch     string
	floor     uint64            // the position before the oldest: a message's, or where a reset put us
	hidden    map[string]uint64 // by channel, up to where its history was removed; at least those beyond floor
}

// reset forgets everything: the log is at this position.
func (t *tail) reset(at Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring, t.first, t.count, t.bytes, t.byChannel = nil, 0, 0, 0, map[string][]*Message{}
	t.epoch, t.floor = at.Epoch, at.Offset
}

// add takes messages that follow the last ones.
func (t *tail) add(messages []Message) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ring == nil {
		t.ring = make([]*Message, t.limit)
	}
	for i := range messages {
		m := &messages[i]
		if m.published.IsZero() {
			m.published = now // it came with a notification, right after its commit
		}
		if t.count == len(t.ring) {
			t.dropOldest()
		}
		t.ring[(t.first+t.count)%len(t.ring)] = m
		t.count++
		t.bytes += m.size()
		t.byChannel[m.Channel] = append(t.byChannel[m.Channel], m)
	}
	for t.bytes > maxTailBytes {
		t.dropOldest()
	}
}

func (t *tail) dropOldest() {
	m := t.ring[t.first]
	t.ring[t.first] = nil
	t.first = (t.first + 1) % len(t.ring)
	t.forget(m)
	t.floor = m.Offset
	list := t.byChannel[m.Channel]
	list[0] = nil // the rest shares its array
	t.keep(m.Channel, list[1:])
}

// truncate drops what the log lost.
func (t *tail) truncate(survived uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.count > 0 {
		last := (t.first + t.count - 1) % len(t.ring)
		m := t.ring[last]
		if m.Offset <= survived {
			return
		}
		t.ring[last] = nil
		t.forget(m)
		list := t.byChannel[m.Channel]
		list[len(list)-1] = nil
		t.keep(m.Channel, list[:len(list)-1])
	}
	t.floor = min(t.floor, survived)
}

// hide takes note that a channel's history was removed: the log must tell what is left of it.
func (t *tail) hide(channel string, upto uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hidden == nil {
		t.hidden = map[string]uint64{}
	}
	for c, at := range t.hidden {
		if at <= t.floor {
			delete(t.hidden, c)
		}
	}
	t.hidden[channel] = max(t.hidden[channel], upto)
}

// position is where the tail begins.
func (t *tail) position() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.floor
}

func (t *tail) forget(m *Message) {
	t.count--
	t.bytes -= m.size()
}

func (t *tail) keep(channel string, list []*Message) {
	if len(list) == 0 {
		delete(t.byChannel, channel)
		return
	}
	t.byChannel[channel] = list
}

// recover returns the channel's messages after since, up to and including upto, if the tail has all of them
// and knows the position; ok is false where only the log can tell. The error is ErrUnrecoverable where the
// channel keeps less.
func (t *tail) recover(channel string, since Position, upto uint64, k kept) (missed []*Message, ok bool, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if since.Epoch != t.epoch || since.Offset < t.hidden[channel] || !t.knows(since.Offset) {
		return nil, false, nil
	}
	list := t.byChannel[channel]
	list = list[after(list, since.Offset):]
	list = list[:after(list, upto)]
	if len(list) == 0 {
		return nil, true, nil
	}
	if t.tooOld(list[0]) {
		return nil, false, nil
	}
	if k.size > 0 && len(list) > k.size || k.ttl > 0 && list[0].published.Before(time.Now().Add(-k.ttl)) {
		return nil, true, ErrUnrecoverable
	}
	return append(missed, list...), true, nil
}

// latest returns the channel's newest message up to upto, or nil if only the log can tell.
func (t *tail) latest(channel string, upto uint64) *Message {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := t.byChannel[channel]
	if i := after(list, upto); i > 0 && list[i-1].Offset > t.hidden[channel] && !t.tooOld(list[i-1]) {
		return list[i-1]
	}
	return nil
}

// tooOld says whether a message may have been retired.
func (t *tail) tooOld(m *Message) bool {
	return t.age > 0 && m.published.Before(time.Now().Add(-t.age))
}

// knows says whether a position is one that this tail saw in the log.
func (t *tail) knows(offset uint64) bool {
	if offset == t.floor {
		return true
	}
	i := sort.Search(t.count, func(i int) bool { return t.at(i).Offset >= offset })
	return i < t.count && t.at(i).Offset == offset
}

func (t *tail) at(i int) *Message { return t.ring[(t.first+i)%len(t.ring)] }

// after returns the index of the first message of list beyond offset.
func after(list []*Message, offset uint64) int {
	return sort.Search(len(list), func(i int) bool { return list[i].Offset > offset })
}
