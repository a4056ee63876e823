package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// subscriber is the published Go client on several channels, writing down all that it is told.
type subscriber struct {
	t      testing.TB
	name   string
	client *centrifuge.Client
	subs   map[string]*centrifuge.Subscription

	mu       sync.Mutex
	replicas []*replica // in the order in which it tries them
	roams    bool       // and it begins with another one each time, as behind a load balancer
	conn     net.Conn   // the connection of now
	seen     map[string][]sighting
	has      map[string]map[string]bool // channel, id
	closes   []uint32                   // the code with which each connection ended
	errors   []string
}

// subscribe connects a client to a replica (and to the others when that does not answer) and waits until it
// is subscribed.
func (c *cluster) subscribe(at int, channels ...string) *subscriber {
	c.t.Helper()
	s := c.subscriber(at, centrifuge.Config{}, channels...)
	s.begin()
	return s
}

var subscribers struct {
	sync.Mutex
	n int
}

// subscriber makes a client that is not connected yet.
func (c *cluster) subscriber(at int, cfg centrifuge.Config, channels ...string) *subscriber {
	c.t.Helper()
	subscribers.Lock()
	subscribers.n++
	name := fmt.Sprintf("subscriber %d of %s", subscribers.n, c.replicas[at].name)
	subscribers.Unlock()
	s := &subscriber{
		t: c.t, name: name, subs: map[string]*centrifuge.Subscription{},
		replicas: append([]*replica{c.replicas[at]}, slices.Delete(slices.Clone(c.replicas), at, at+1)...),
		seen:     map[string][]sighting{}, has: map[string]map[string]bool{},
	}
	cfg.NetDialContext = s.dial
	cfg.HandshakeTimeout = 5 * time.Second
	cfg.MinReconnectDelay, cfg.MaxReconnectDelay = 50*time.Millisecond, time.Second
	s.client = centrifuge.NewJsonClient("ws://forgewire.test/connection/websocket", cfg)
	s.client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closes = append(s.closes, e.Code)
	})
	s.client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closes = append(s.closes, e.Code)
	})
	s.client.OnError(func(e centrifuge.ErrorEvent) { s.failed(e.Error) })
	for _, channel := range channels {
		s.follow(channel)
	}
	c.t.Cleanup(s.client.Close)
	return s
}

// dial chooses the replica: the first that takes the connection.
func (s *subscriber) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	s.mu.Lock()
	replicas := s.replicas
	if s.roams {
		s.replicas = append(slices.Clone(replicas[1:]), replicas[0])
	}
	s.mu.Unlock()
	var errs []error
	for _, r := range replicas {
		conn, err := new(net.Dialer).DialContext(ctx, network, r.addr)
		if err == nil {
			s.mu.Lock()
			s.conn = conn
			s.mu.Unlock()
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (s *subscriber) follow(channel string) {
	s.t.Helper()
	sub, err := s.client.NewSubscription(channel, centrifuge.SubscriptionConfig{
		Recoverable: true, MinResubscribeDelay: 50 * time.Millisecond, MaxResubscribeDelay: time.Second,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.has[channel] = map[string]bool{}
	sub.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		k := begun
		switch {
		case e.WasRecovering && e.Recovered:
			k = recovered
		case e.WasRecovering:
			k = told
		}
		if e.StreamPosition == nil {
			s.failed(errors.New("subscribed without a position"))
			return
		}
		s.saw(channel, sighting{kind: k, offset: e.StreamPosition.Offset})
	})
	sub.OnPublication(func(e centrifuge.PublicationEvent) {
		s.saw(channel, sighting{kind: message, offset: e.Offset, id: idOf(e.Data)})
	})
	sub.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
		if e.Code >= 100 {
			s.failed(fmt.Errorf("unsubscribed for good from %s: %d %s", channel, e.Code, e.Reason))
		}
	})
	sub.OnError(func(e centrifuge.SubscriptionErrorEvent) { s.failed(e.Error) })
	if err = sub.Subscribe(); err != nil {
		s.t.Fatal(err)
	}
	s.subs[channel] = sub
}

// idOf is the id in a test's message.
func idOf(data []byte) string {
	var m struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(data, &m); err != nil || m.ID == "" {
		return string(data)
	}
	return m.ID
}

func (s *subscriber) saw(channel string, what sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[channel] = append(s.seen[channel], what)
	if what.kind == message {
		s.has[channel][what.id] = true
	}
}

func (s *subscriber) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors = append(s.errors, err.Error())
}

// begin connects and waits for all subscriptions.
func (s *subscriber) begin() {
	s.t.Helper()
	_ = s.client.Connect() // it tries again by itself
	s.waitSubscribed(15 * time.Second)
}

func (s *subscriber) waitSubscribed(within time.Duration) {
	s.t.Helper()
	until(s.t, within, s.name+" subscribed", func() string {
		for channel, sub := range s.subs {
			if sub.State() != centrifuge.SubStateSubscribed {
				s.mu.Lock()
				defer s.mu.Unlock()
				return fmt.Sprintf("not to %s; errors %q", channel, s.errors[max(0, len(s.errors)-3):])
			}
		}
		return ""
	})
}

// waitFor waits until it has seen a message.
func (s *subscriber) waitFor(channel, id string, within time.Duration) {
	s.t.Helper()
	until(s.t, within, fmt.Sprintf("%s seeing %s on %s", s.name, id, channel), func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.has[channel][id] {
			return ""
		}
		seen := s.seen[channel]
		return fmt.Sprintf("it saw %d things, lastly %v; errors %q", len(seen), seen[max(0, len(seen)-3):], s.errors[max(0, len(s.errors)-3):])
	})
}

func (s *subscriber) saying(channel, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has[channel][id]
}

// messages returns what it saw on a channel, without the subscriptions.
func (s *subscriber) messages(channel string) (m []sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.seen[channel] {
		if x.kind == message {
			m = append(m, x)
		}
	}
	return m
}

// count says how often it was subscribed in a way.
func (s *subscriber) count(channel string, k kind) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.seen[channel] {
		if x.kind == k {
			n++
		}
	}
	return n
}

// waitCount waits until it was subscribed in a way so often.
func (s *subscriber) waitCount(channel string, k kind, n int, within time.Duration) {
	s.t.Helper()
	until(s.t, within, fmt.Sprintf("%s told %d times of kind %d on %s", s.name, n, k, channel), func() string {
		if have := s.count(channel, k); have < n {
			return fmt.Sprintf("it was %d times", have)
		}
		return ""
	})
}

// prefer makes a replica the first that it tries when it connects again.
func (s *subscriber) prefer(r *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.replicas, r)
	s.replicas = append([]*replica{r}, slices.Delete(slices.Clone(s.replicas), i, i+1)...)
}

// cut ends the connection as a network does; the client connects again.
func (s *subscriber) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
}

// away disconnects it; begin brings it back.
func (s *subscriber) away() {
	s.t.Helper()
	if err := s.client.Disconnect(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subscriber) histories() (all []history) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for channel := range s.subs {
		all = append(all, history{subscriber: s.name, channel: channel, sightings: slices.Clone(s.seen[channel])})
	}
	return all
}
