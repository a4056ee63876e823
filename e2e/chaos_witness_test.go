package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

// witness is somebody who sees messages, writes them down, and can be asked.
type witness interface {
	who() string
	sees() []string // channels
	saying(channel, id string) bool
	trouble() string
	histories() []history
	// forget drops what was checked: everything up to a number.
	forget(upTo uint64)
}

func (s *subscriber) who() string { return s.name }

func (s *subscriber) sees() (channels []string) {
	for channel := range s.subs {
		channels = append(channels, channel)
	}
	slices.Sort(channels)
	return channels
}

func (s *subscriber) trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%s, errors %q", s.client.State(), s.errors[max(0, len(s.errors)-3):])
}

func (s *subscriber) forget(upTo uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for channel := range s.seen {
		s.seen[channel] = []sighting{{kind: begun, offset: upTo}}
		s.has[channel] = map[string]bool{}
	}
	s.errors = nil
}

// newCrowd is who looks on: at each replica a subscriber of all rooms, ann and bob with their own inboxes, and a reader
// of plain events.
func (w *chaos) newCrowd() {
	for i := range w.front.replicas {
		w.crowd = append(w.crowd, w.witnessAt(i, "", "room:1", "room:2"))
	}
	w.crowd = append(w.crowd, w.witnessAt(0, "ann", "inbox#ann", "room:1"), w.witnessAt(1, "bob", "inbox#bob", "room:2"))
	e := &eventWitness{channel: "room:1", has: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); e.follow(ctx, w.front) }()
	w.t.Cleanup(func() { cancel(); <-done })
	until(w.t, 20*time.Second, "the reader of events beginning", func() string {
		if len(e.histories()[0].sightings) == 0 {
			return "it has no position"
		}
		return ""
	})
	w.crowd = append(w.crowd, e)
}

func (w *chaos) witnessAt(i int, user string, channels ...string) *subscriber {
	cfg := centrifuge.Config{}
	if user != "" {
		cfg.Token = sign(w.t, tokenSecret, user, 24*time.Hour)
	}
	s := w.front.subscriber(i, cfg, channels...)
	s.roams = true
	s.begin()
	return s
}

// subscribers are the crowd's clients.
func (w *chaos) subscribers() (all []*subscriber) {
	for _, x := range w.crowd {
		if s, ok := x.(*subscriber); ok {
			all = append(all, s)
		}
	}
	return all
}

// eventWitness reads a channel as server-sent events, and comes back with the last id as EventSource does.
type eventWitness struct {
	channel string

	mu   sync.Mutex
	last string // the last event's id
	seen []sighting
	has  map[string]bool
	err  string
}

func (e *eventWitness) who() string    { return "the reader of events" }
func (e *eventWitness) sees() []string { return []string{e.channel} }

func (e *eventWitness) saying(_, id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.has[id]
}

func (e *eventWitness) trouble() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *eventWitness) histories() []history {
	e.mu.Lock()
	defer e.mu.Unlock()
	return []history{{subscriber: e.who(), channel: e.channel, sightings: slices.Clone(e.seen)}}
}

func (e *eventWitness) forget(upTo uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen, e.has = []sighting{{kind: begun, offset: upTo}}, map[string]bool{}
}

func (e *eventWitness) follow(ctx context.Context, c *cluster) {
	for i := 0; ctx.Err() == nil; i++ {
		err := e.once(ctx, "http://"+c.replicas[i%len(c.replicas)].addr+"/v1/channels/"+url.PathEscape(e.channel)+"/events")
		e.mu.Lock()
		e.err = fmt.Sprint(err)
		e.mu.Unlock()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// silence is how long a stream may say nothing, not even a ping, which comes every 25 s.
const silence = 35 * time.Second

func (e *eventWitness) once(ctx context.Context, address string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	e.mu.Lock()
	if e.last != "" {
		req.Header.Set("Last-Event-ID", e.last)
	}
	e.mu.Unlock()
	dead := time.AfterFunc(silence, cancel)
	defer dead.Stop()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	name, id, data := "", "", ""
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		dead.Reset(silence)
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "id":
			id = value
		case "data":
			data = value
		case "":
			e.event(name, id, data)
			name, id, data = "", "", ""
		}
	}
	return lines.Err()
}

// event takes one event, or the id alone with which a stream begins.
func (e *eventWitness) event(name, id, data string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if id == "" {
		return // a ping, or the end
	}
	e.last = id
	offset, _ := strconv.ParseUint(id[strings.LastIndexByte(id, '-')+1:], 10, 64) // 0 is found wrong by the checker
	switch {
	case name == "reset":
		e.seen = append(e.seen, sighting{kind: told, offset: offset})
	case name != "":
	case data == "":
		if len(e.seen) == 0 {
			e.seen = append(e.seen, sighting{kind: begun, offset: offset})
		}
	default:
		e.seen = append(e.seen, sighting{kind: message, offset: offset, id: idOf([]byte(data))})
		e.has[idOf([]byte(data))] = true
	}
}

// everybodySees waits until all who see a channel saw what is published now in some way, trying again with another
// message, since who was told that something is missing may have missed one.
func (w *chaos) everybodySees(t testing.TB, by time.Time, how string, publish func(channel string) (id string, err error)) {
	t.Helper()
	for _, channel := range chaosChannels {
		var id string
		var again time.Time
		until(t, time.Until(by), "everybody seeing what is published "+how+" on "+channel, func() string {
			if time.Now().After(again) {
				made, err := publish(channel)
				if err != nil {
					return err.Error()
				}
				id, again = made, time.Now().Add(5*time.Second)
			}
			for _, x := range w.crowd {
				if slices.Contains(x.sees(), channel) && !x.saying(channel, id) {
					return fmt.Sprintf("%s did not see %s: %s", x.who(), id, x.trouble())
				}
			}
			return ""
		})
	}
}
