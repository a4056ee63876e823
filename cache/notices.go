package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// A notice says which names changed on one replica:
//
//	version 1 byte, sender 16 bytes, for each name: length (uvarint), name
//
// and a name of no length is all of them.
const (
	noticeVersion   = 1
	senderBytes     = 16
	noticeBytes     = 4 << 10 // it travels in a Postgres notification, which holds under 8,000
	maxNotices      = 4096
	announceTimeout = 2 * time.Second
	announceRetry   = time.Second
)

var errNotice = errors.New("not a notice of this version")

// notices are what the other replicas must still hear of, where there is no Valkey.
// Above their bound they become one: everything.
type notices struct {
	bus    Bus
	log    *slog.Logger
	sender []byte
	wake   chan struct{}
	turn   chan struct{} // held by the one that sends

	mu    sync.Mutex
	names map[string]struct{}
	all   bool
}

func newNotices(bus Bus, log *slog.Logger) *notices {
	return &notices{bus: bus, log: log, sender: []byte(rand.Text()[:senderBytes]), wake: make(chan struct{}, 1), turn: make(chan struct{}, 1), names: make(map[string]struct{})}
}

// add queues names; run sends them.
func (n *notices) add(names ...string) {
	if n.bus == nil {
		return
	}
	n.queue(names)
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// queue does not wake run: what could not be sent waits until it is time to try again.
func (n *notices) queue(names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		if n.all || len(n.names) >= maxNotices {
			n.all = true
			clear(n.names)
			break
		}
		n.names[name] = struct{}{}
	}
}

// run sends what is queued, and again what could not be sent. What is left when ctx
// ends has one more chance.
func (n *notices) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			_ = n.flush(context.WithoutCancel(ctx)) // nobody is left to try again; TTLs bound the harm
			return nil
		case <-n.wake:
		case <-timer.C:
		}
		err := n.flush(ctx)
		if err != nil {
			timer.Reset(announceRetry)
			if !failing && ctx.Err() == nil {
				n.log.WarnContext(ctx, "other replicas cannot be told what left the cache, trying again", "error", err)
			}
		}
		failing = err != nil
	}
}

// flush announces all that is queued. Somebody else may be sending what was: it is not announced before he is done.
func (n *notices) flush(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	case <-waiting.Done():
		return fmt.Errorf("wait for the notice before: %w", waiting.Err())
	}
	for {
		names, all := n.take()
		if len(names) == 0 && !all {
			return nil
		}
		if err := n.announce(ctx, names, all); err != nil {
			n.mu.Lock()
			n.all = n.all || all
			n.mu.Unlock()
			n.queue(names)
			return err
		}
	}
}

// take removes from the queue what fits into one notice.
func (n *notices) take() (names []string, all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all {
		n.all = false
		return nil, true
	}
	size := 1 + senderBytes
	for name := range n.names {
		if size += binary.MaxVarintLen16 + len(name); size > noticeBytes {
			break
		}
		names = append(names, name)
		delete(n.names, name)
	}
	return names, false
}

func (n *notices) announce(ctx context.Context, names []string, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	if all {
		names = []string{""}
	}
	if err := n.bus.Announce(ctx, Topic, encodeNotice(n.sender, names)); err != nil {
		return fmt.Errorf("announce what left the cache: %w", err)
	}
	return nil
}

func encodeNotice(sender []byte, names []string) []byte {
	b := append([]byte{noticeVersion}, sender...)
	for _, name := range names {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
	}
	return b
}

// decodeNotice returns who sent it and which names; "" among them is all.
func decodeNotice(data []byte) (sender []byte, names []string, err error) {
	if len(data) < 1+senderBytes || data[0] != noticeVersion {
		return nil, nil, errNotice
	}
	sender, data = data[1:1+senderBytes], data[1+senderBytes:]
	for len(data) > 0 {
		length, n := binary.Uvarint(data)
		if n <= 0 || length > uint64(len(data)-n) {
			return nil, nil, errNotice
		}
		names = append(names, string(data[n:n+int(length)]))
		data = data[n+int(length):]
	}
	return sender, names, nil
}

// announced takes what came over the bus. Our own is known already; what cannot be
// read, from a newer release, may be anything.
func (n *notices) announced(l *local, data []byte) {
	sender, names, err := decodeNotice(data)
	if err != nil {
		l.clear()
		return
	}
	if bytes.Equal(sender, n.sender) {
		return
	}
	for _, name := range names {
		if name == "" {
			l.clear()
			return
		}
		l.forget(name)
	}
}
