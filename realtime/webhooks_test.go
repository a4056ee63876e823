package realtime

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"forgewire/db/dbtest"
)

const webhookNamespaces = `{"namespaces":[{"name":"live","webhooks":true}]}`

// receiver takes webhooks as a team's backend should: it looks at the signature, and knows deliveries again.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	away   bool
	events []webhookEvent
	seen   map[string]bool
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{seen: map[string]bool{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if err := verify(req.Header.Get("Forgewire-Signature"), body); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.away {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if id := req.Header.Get("Forgewire-Delivery"); !r.seen[id] {
			r.seen[id] = true
			var b webhookBody
			if err := json.Unmarshal(body, &b); err != nil || b.TimeMS == 0 || len(b.Events) == 0 {
				t.Errorf("%s: %v", body, err)
			}
			r.events = append(r.events, b.Events...)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// verify is what the documentation tells receivers to do.
func verify(header string, body []byte) error {
	at, signature, _ := strings.Cut(strings.TrimPrefix(header, "t="), ",v1=")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return fmt.Errorf("the signature is not of now: %q", header)
	}
	mac := hmac.New(sha256.New, []byte(testSecret))
	mac.Write([]byte(at + "." + string(body)))
	if given, err := hex.DecodeString(signature); err != nil || !hmac.Equal(given, mac.Sum(nil)) {
		return fmt.Errorf("the signature is not ours: %q", header)
	}
	return nil
}

// of returns the names of the events of a channel, or of a user's connections, in the order of their times.
func (r *receiver) of(who string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var mine []webhookEvent
	for _, e := range r.events {
		if e.Channel == who || e.Channel == "" && e.User == who {
			mine = append(mine, e)
		}
	}
	slices.SortStableFunc(mine, func(a, b webhookEvent) int { return int(a.TimeMS - b.TimeMS) })
	var names []string
	for _, e := range mine {
		_, name, _ := strings.Cut(e.Name, "_")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func (r *receiver) setAway(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

func (r *receiver) expect(t testing.TB, who, want string) {
	t.Helper()
	eventually(t, 25*time.Second, who+": "+want+" (have: "+r.of(who)+")", func() bool { return r.of(who) == want })
}

func withWebhooks(r *receiver) func(*Config) {
	return func(c *Config) {
		c.WebhookURL, c.WebhookSecret = r.URL, testSecret
		c.Namespaces = must(ParseNamespaces(webhookNamespaces))
	}
}

func talkAs(t testing.TB, address, user string) *talker {
	t.Helper()
	k := talk(t, address, nil)
	if got := k.ask(fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, must(SignToken(testSecret, user, time.Hour)))); !strings.Contains(got, `"client"`) {
		t.Fatal(got)
	}
	return k
}

// Over two replicas a channel is occupied by its first subscriber and vacated by its last; who comes back
// soon, or on the other replica, vacates nothing; and channels of other namespaces are not reported.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	url, r := dbtest.New(t), newReceiver(t)
	_, one, stopOne := startHooked(t, url, withWebhooks(r))
	_, two, _ := startHooked(t, url, withWebhooks(r))
	joe, ann := talkAs(t, one, "joe"), talkAs(t, two, "ann")
	joe.ask(`{"id":2,"subscribe":{"channel":"live:a"}}`)
	joe.ask(`{"id":3,"subscribe":{"channel":"quiet:a"}}`)
	r.expect(t, "live:a", "occupied")
	r.expect(t, "joe", "connected")
	r.expect(t, "ann", "connected")
	ann.ask(`{"id":2,"subscribe":{"channel":"live:a"}}`)
	ann.ask(`{"id":3,"subscribe":{"channel":"live:b"}}`)
	r.expect(t, "live:b", "occupied")
	joe.ask(`{"id":4,"unsubscribe":{"channel":"live:a"}}`) // ann still has it
	for i := range 3 {                                     // a client that flaps
		ann.ask(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"live:b"}}`, 10+i))
		ann.ask(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"live:b"}}`, 20+i))
	}
	ann.ask(`{"id":40,"unsubscribe":{"channel":"live:a"}}`)
	r.expect(t, "live:a", "occupied vacated")

	// A replica that stops takes nothing along that its clients have elsewhere.
	joe.ask(`{"id":5,"subscribe":{"channel":"live:b"}}`)
	joe.ask(`{"id":6,"subscribe":{"channel":"live:c"}}`)
	r.expect(t, "live:c", "occupied")
	stopOne()
	r.expect(t, "joe", "connected disconnected")
	r.expect(t, "live:c", "occupied vacated")
	for who, want := range map[string]string{"live:b": "occupied", "quiet:a": ""} {
		if got := r.of(who); got != want {
			t.Errorf("%s: %q, want %q", who, got, want)
		}
	}
	// Who is gone before a second has passed was never reported.
	_ = talkAs(t, two, "eve").ws.CloseNow()
	_ = ann.ws.CloseNow()
	r.expect(t, "ann", "connected disconnected")
	r.expect(t, "live:b", "occupied vacated")
	if got := r.of("eve"); got != "" {
		t.Errorf("eve: %s", got)
	}
}

// What a receiver that is away does not take is sent again, also by another replica after a restart.
func TestWebhooksAreRetried(t *testing.T) {
	t.Parallel()
	url, r := dbtest.New(t), newReceiver(t)
	r.setAway(true)
	_, address, stop := startHooked(t, url, withWebhooks(r))
	talkAs(t, address, "joe").ask(`{"id":2,"subscribe":{"channel":"live:a"}}`)
	c := dial(t, url)
	eventually(t, 15*time.Second, "attempts with all events", func() bool {
		return one[int64](t, c, "SELECT count(*) FROM forgewire.river_job WHERE attempt > 0 AND (args::text LIKE '%occupied%' OR args::text LIKE '%_connected%')") >= 2
	})
	stop()
	n, _, _ := startHooked(t, url, withWebhooks(r))
	eventually(t, 25*time.Second, "another attempt, by another process", func() bool { return n.stats.webhooks.failed.Load() > 0 })
	r.setAway(false)
	r.expect(t, "live:a", "occupied vacated")
	r.expect(t, "joe", "connected disconnected")
	if n.stats.webhooks.delivered.Load() == 0 || n.stats.webhooks.discarded.Load() != 0 {
		t.Errorf("%d delivered, %d discarded", n.stats.webhooks.delivered.Load(), n.stats.webhooks.discarded.Load())
	}
}

// After three days an event is given up and counted; until then each wait is about twice the last.
func TestWebhookGivesUp(t *testing.T) {
	r := newReceiver(t)
	r.setAway(true)
	n := &Node{logger: quietLogger(), cfg: Config{WebhookURL: r.URL, WebhookSecret: testSecret}}
	d := &delivery{logger: n.logger, stats: &n.stats, url: r.URL, secret: []byte(testSecret), client: newHTTPClient(1)}
	defer d.client.CloseIdleConnections()
	job := func(age time.Duration) *river.Job[webhookJob] {
		return &river.Job[webhookJob]{JobRow: &rivertype.JobRow{ID: 1, CreatedAt: time.Now().Add(-age)}, Args: webhookJob{webhookBody{TimeMS: 1}}}
	}
	var cancel *river.JobCancelError
	if err := d.Work(t.Context(), job(webhookGivesUp-time.Minute)); err == nil || errors.As(err, &cancel) || n.stats.webhooks.failed.Load() != 1 {
		t.Errorf("before: %v", err)
	}
	if err := d.Work(t.Context(), job(webhookGivesUp+time.Minute)); !errors.As(err, &cancel) || n.stats.webhooks.discarded.Load() != 1 {
		t.Errorf("after: %v", err)
	}
	for attempt, most := range map[int]time.Duration{1: 2 * time.Second, 5: 32 * time.Second, 11: 2048 * time.Second, 12: time.Hour, 500: time.Hour} {
		j := job(0)
		j.Attempt = attempt
		if wait := time.Until(d.NextRetry(j)); wait > most || wait < most/2-time.Second {
			t.Errorf("attempt %d: %v, at most %v", attempt, wait, most)
		}
	}
}

// Replicas that race, die and come back: each channel's events alternate, and end as the channel does.
func TestOccupancyAlternates(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	type happened struct {
		at       time.Time
		occupied bool
	}
	var mu sync.Mutex
	events := map[string][]happened{}
	say := func(q querier, replica string, c changes) occupancy {
		o, err := occupy(context.Background(), q, replica, c)
		if err != nil {
			t.Error(err)
			return o
		}
		mu.Lock()
		defer mu.Unlock()
		for _, ch := range o.occupied {
			events[ch] = append(events[ch], happened{o.at, true})
		}
		for _, ch := range o.vacated {
			events[ch] = append(events[ch], happened{o.at, false})
		}
		return o
	}
	var wg sync.WaitGroup
	end := time.Now().Add(3 * time.Second)
	for i := range 4 {
		c := dial(t, url)
		wg.Go(func() {
			has, known := map[string]bool{}, false
			for life := 0; time.Now().Before(end); {
				ch := changes{everything: !known, lease: 300 * time.Millisecond}
				var next []string
				for k := range 5 {
					name := "c" + strconv.Itoa(k)
					want := rand.IntN(3) == 0
					switch {
					case want && (!has[name] || !known):
						ch.come = append(ch.come, name)
					case !want && has[name] && known:
						ch.gone = append(ch.gone, name)
					}
					if want {
						next = append(next, name)
					}
				}
				ch.holds = len(next) > 0
				o := say(c, fmt.Sprintf("r%d-%d", i, life), ch)
				if known = o.known; known {
					clear(has)
					for _, name := range next {
						has[name] = true
					}
				}
				switch rand.IntN(30) {
				case 0: // it dies, and another begins
					life, known = life+1, false
					clear(has)
				case 1: // it is held up for longer than its lease
					pause(context.Background(), 400*time.Millisecond)
				}
			}
			say(c, "cleaner"+strconv.Itoa(i), changes{lease: time.Second})
		})
	}
	wg.Wait()
	pause(context.Background(), 400*time.Millisecond)
	c := dial(t, url)
	say(c, "last", changes{lease: time.Second}) // every lease has ended by now
	total := 0
	for ch, all := range events {
		slices.SortStableFunc(all, func(a, b happened) int { return a.at.Compare(b.at) })
		for i, h := range all {
			if h.occupied != (i%2 == 0) {
				t.Fatalf("%s: event %d of %d is occupied: %v", ch, i, len(all), h.occupied)
			}
		}
		if len(all)%2 != 0 {
			t.Errorf("%s was occupied and never vacated", ch)
		}
		total += len(all)
	}
	if total < 40 {
		t.Errorf("only %d events: this test shows little", total)
	}
	if n := one[int64](t, c, "SELECT (SELECT count(*) FROM forgewire.occupancy) + (SELECT count(*) FROM forgewire.occupants)"); n != 0 {
		t.Errorf("%d rows were left", n)
	}
}

// Clients that come and go on two replicas at once make events that alternate, and end with the channel vacated.
func TestTwoReplicasRace(t *testing.T) {
	t.Parallel()
	url, r := dbtest.New(t), newReceiver(t)
	var wg sync.WaitGroup
	for i := range 2 {
		_, address, _ := startHooked(t, url, withWebhooks(r))
		for j := range 3 {
			k := talkAs(t, address, fmt.Sprintf("u%d-%d", i, j))
			wg.Go(func() {
				// The same times for all: they meet at each change.
				for n, wait := range []time.Duration{0, 10, 3050, 300, 3000, 100, 3150, 0} {
					pause(context.Background(), wait*time.Millisecond+time.Duration(rand.IntN(50))*time.Millisecond)
					command := []string{"subscribe", "unsubscribe"}[n%2]
					k.ask(fmt.Sprintf(`{"id":%d,%q:{"channel":"live:race"}}`, n+2, command))
				}
			})
		}
	}
	wg.Wait()
	eventually(t, 20*time.Second, "vacated", func() bool { return strings.HasSuffix(r.of("live:race"), "vacated") })
	names := strings.Fields(r.of("live:race"))
	for i, name := range names {
		if want := []string{"occupied", "vacated"}[i%2]; name != want {
			t.Fatalf("%v", names)
		}
	}
	if len(names) < 2 {
		t.Errorf("%v", names)
	}
}

// A replica that was killed leaves its channels until its lease ends: then another reports them, though it
// has no subscribers itself. One that is alive and whose lease was taken says again what it has.
func TestOccupancyOfTheDead(t *testing.T) {
	t.Parallel()
	url, r := dbtest.New(t), newReceiver(t)
	_, address, _ := startHooked(t, url, withWebhooks(r))
	c := dial(t, url)
	dead := func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := occupy(ctx, tx, "dead", changes{come: []string{"live:dead", "live:both"}, everything: true, holds: true, lease: lease}); err != nil {
				return err
			}
			return tellIn(ctx, tx, control{Op: opOccupancy})
		})
	}
	if err := dead(t.Context()); err != nil {
		t.Fatal(err)
	}
	talkAs(t, address, "joe").ask(`{"id":2,"subscribe":{"channel":"live:both"}}`)
	talkAs(t, address, "ann").ask(`{"id":2,"subscribe":{"channel":"live:mine"}}`)
	r.expect(t, "live:mine", "occupied")
	expire := func(replica string) {
		if _, err := c.Exec(t.Context(), "UPDATE forgewire.occupants SET expires_at = now() WHERE replica LIKE $1", replica); err != nil {
			t.Fatal(err)
		}
		if err := tellIn(t.Context(), c, control{Op: opOccupancy}); err != nil { // rather than wait for the lease
			t.Fatal(err)
		}
	}
	expire("dead")
	r.expect(t, "live:dead", "vacated")
	if got := r.of("live:both"); got != "" {
		t.Errorf("another still has it: %s", got)
	}
	// Others take what belongs to one that lives, but was held up.
	eventually(t, 20*time.Second, "taken by another", func() bool { // again where the one that lives was quicker
		if _, err := c.Exec(t.Context(), "UPDATE forgewire.occupants SET expires_at = now()"); err != nil {
			t.Fatal(err)
		}
		return slices.Contains(must(occupy(t.Context(), c, "other", changes{lease: lease})).vacated, "live:mine")
	})
	expire("nobody")
	eventually(t, 15*time.Second, "said again", func() bool {
		return one[int64](t, c, "SELECT count(*) FROM forgewire.occupancy WHERE channel IN ('live:mine', 'live:both') AND cardinality(replicas) = 1") == 2
	})
	eventually(t, time.Minute, "occupied again", func() bool { return strings.HasSuffix(r.of("live:mine"), "occupied occupied") })
}

// When all was delivered and nobody has a channel with webhooks, no query runs.
func TestWebhooksSleep(t *testing.T) {
	t.Parallel()
	url, r := dbtest.New(t), newReceiver(t)
	_, address, _ := startHooked(t, url, withWebhooks(r))
	k := talkAs(t, address, "joe")
	k.ask(`{"id":2,"subscribe":{"channel":"live:a"}}`)
	r.expect(t, "live:a", "occupied")
	k.ask(`{"id":3,"unsubscribe":{"channel":"live:a"}}`)
	r.expect(t, "live:a", "occupied vacated")
	c := dial(t, url)
	last := func() time.Time {
		return one[time.Time](t, c, "SELECT max(query_start) FROM pg_stat_activity WHERE application_name = 'forgewire' AND datname = current_database()")
	}
	eventually(t, 30*time.Second, "no query for three seconds", func() bool {
		before := last()
		pause(context.Background(), 3*time.Second)
		return last().Equal(before)
	})
	// And it wakes.
	k.ask(`{"id":4,"subscribe":{"channel":"live:a"}}`)
	r.expect(t, "live:a", "occupied vacated occupied")
}

// While the database is away connections' events are kept up to a bound, and counted beyond it; what could
// not be written is said again, all of it.
func TestWebhookEventsAreBounded(t *testing.T) {
	n := &Node{logger: quietLogger(), hub: newHub(1)}
	w := &webhooks{logger: n.logger, stats: &n.stats, woken: make(chan struct{}, 1), channels: map[string]*occupant{}, arriving: map[string]webhookEvent{}}
	for range maxConnectionEvents + 7 {
		w.disconnected(&client{id: "c"})
	}
	if len(w.events) != maxConnectionEvents || n.stats.webhooks.dropped.Load() != 7 {
		t.Errorf("%d events, %d dropped", len(w.events), n.stats.webhooks.dropped.Load())
	}
	w.occupied("a", true)
	now := time.Now()
	c, due := w.take(now, false)
	if !due || len(c.events) != maxConnectionEvents || !slices.Equal(c.come, []string{"a"}) || c.everything || !c.holds {
		t.Errorf("%v, %d events, %v", due, len(c.events), c.come)
	}
	w.putBack(c)
	c, _ = w.take(now, false)
	if len(c.events) != maxConnectionEvents || !slices.Equal(c.come, []string{"a"}) || !c.everything {
		t.Errorf("again: %d events, %v", len(c.events), c.come)
	}
	w.recorded(c)
	if _, due = w.take(now, false); due {
		t.Error("it says what it has said")
	}
	w.occupied("a", false)
	if _, due = w.take(time.Now(), false); due {
		t.Error("a channel is vacated at once")
	}
	if c, due = w.take(time.Now().Add(vacatedAfter), false); !due || !slices.Equal(c.gone, []string{"a"}) || c.holds {
		t.Errorf("later: %+v", c)
	}
	w.occupied("a", true) // while it is written
	w.recorded(c)
	if c, due = w.take(time.Now(), false); !due || !slices.Equal(c.come, []string{"a"}) {
		t.Errorf("it came back: %+v", c)
	}
}

// A connection that lasted is reported, also where no write came between its beginning and its end.
func TestWebhooksOfConnectionsWhileNothingIsWritten(t *testing.T) {
	n := &Node{logger: quietLogger(), hub: newHub(1)}
	w := &webhooks{logger: n.logger, stats: &n.stats, woken: make(chan struct{}, 1), channels: map[string]*occupant{}, arriving: map[string]webhookEvent{}}
	for _, id := range []string{"short", "long"} {
		c := &client{id: id}
		w.connected(c)
		if id == "long" {
			e := w.arriving[id]
			e.TimeMS -= connectedAfter.Milliseconds()
			w.arriving[id] = e
		}
		w.disconnected(c)
	}
	if len(w.events) != 2 || len(w.arriving) != 0 || w.events[0].Name != eventConnected || w.events[1].Name != eventDisconnected || w.events[1].Client != "long" {
		t.Errorf("%+v", w.events)
	}
}

func TestWebhookConfig(t *testing.T) {
	with := must(ParseNamespaces(webhookNamespaces))
	for _, c := range []struct {
		url, secret string
		n           *Namespaces
		wrong       string
	}{
		{"", "", NewNamespaces(), ""},
		{"http://app/w", testSecret, with, ""},
		{"", "", with, "no receiver"},
		{"app/w", testSecret, with, "not an http"},
		{"http://app/w", "short", with, "shorter"},
	} {
		err := checkWebhooks(Config{WebhookURL: c.url, WebhookSecret: c.secret, Namespaces: c.n})
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%q: %v", c.url, err)
		}
	}
}
