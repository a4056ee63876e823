package realtime

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"forgewire/db"
	"forgewire/db/dbtest"
)

// Adding a log moves to it one channel in n, and none between the others; SQL says the same as Go.
func TestPlaceOf(t *testing.T) {
	t.Parallel()
	pool := must(pgxpool.New(t.Context(), dbtest.New(t)))
	t.Cleanup(pool.Close)
	const channels = 20000
	for logs := 2; logs <= 8; logs++ {
		moved := 0
		for i := range channels {
			channel := fmt.Sprintf("room:%d", i)
			before, after := PlaceOf(channel, logs-1), PlaceOf(channel, logs)
			if before == after {
				continue
			}
			if moved++; after != logs-1 {
				t.Fatalf("%s went from %d to %d when log %d was added", channel, before, after, logs-1)
			}
		}
		if share := float64(moved) * float64(logs) / channels; share < 0.9 || share > 1.1 {
			t.Errorf("adding log %d moved %d of %d channels", logs-1, moved, channels)
		}
	}
	for i := range 200 {
		channel := strings.Repeat("x", i) + "~$#: "
		if in := one[int](t, pool, fmt.Sprintf("SELECT forgewire.place_of('%s', 5)", channel)); in != PlaceOf(channel, 5) {
			t.Fatalf("%q is in log %d, in SQL in %d", channel, PlaceOf(channel, 5), in)
		}
	}
}

// logs makes databases and records them as a set.
func logs(t testing.TB, n int) []string {
	t.Helper()
	urls := make([]string, n)
	for i := range urls {
		urls[i] = dbtest.New(t)
	}
	must(SetLogs(t.Context(), urls, false))
	return urls
}

// spreadReplica is a replica of several logs.
func spreadReplica(t testing.TB, urls []string) *testReplica {
	t.Helper()
	r := newTestReplica(t, urls[0], func(cfg *Config) { cfg.Logs = furtherLogs(t, urls[1:]) })
	eventually(t, 20*time.Second, "every log is reached", func() bool { return len(r.node.LogsAway(t.Context())) == 0 })
	return r
}

func furtherLogs(t testing.TB, urls []string) (all []LogConfig) {
	t.Helper()
	for _, url := range urls {
		pool := must(db.NewPool(context.Background(), db.PoolConfig{URL: url}))
		t.Cleanup(pool.Close)
		all = append(all, LogConfig{Pool: pool, ListenURL: url})
	}
	return all
}

// channelIn returns a channel that the log at that place has.
func channelIn(place, logs int) string {
	for i := 0; ; i++ {
		if c := fmt.Sprintf("room:%d", i); PlaceOf(c, logs) == place {
			return c
		}
	}
}

// One connection hears channels of several logs, from any replica, each in its order; a batch spans them.
func TestSpread(t *testing.T) {
	t.Parallel()
	urls := logs(t, 3)
	a, b := spreadReplica(t, urls), spreadReplica(t, urls)
	c := a.joined(t)
	channels := []string{channelIn(0, 3), channelIn(1, 3), channelIn(2, 3)}
	epochs := map[string]string{}
	for _, ch := range channels {
		epochs[ch] = c.wantError(subscribeTo(ch, ""), 0).Subscribe.Epoch
	}
	if epochs[channels[0]] == epochs[channels[1]] || epochs[channels[1]] == epochs[channels[2]] {
		t.Errorf("logs share an epoch: %v", epochs)
	}
	const rounds = 50
	for i := range rounds {
		var batch []Message
		for _, ch := range channels {
			batch = append(batch, message(ch, i))
		}
		sent := must(b.node.Publish(t.Context(), batch...))
		for _, m := range sent {
			if m.Offset == 0 {
				t.Fatalf("%+v", sent)
			}
		}
	}
	got := map[string][]string{}
	for range rounds * len(channels) {
		p, code := c.read()
		if code != 0 || p.Push == nil || p.Push.Pub == nil {
			t.Fatalf("%+v, closed with %d", p, code)
		}
		got[p.Push.Channel] = append(got[p.Push.Channel], string(p.Push.Pub.Data))
	}
	for _, ch := range channels {
		if want := numbers(0, rounds); !slices.Equal(got[ch], want) {
			t.Errorf("%s: %v", ch, got[ch])
		}
		h := must(b.node.History(t.Context(), ch, HistoryFilter{Limit: -1}))
		if len(h.Messages) != rounds || h.Position.Epoch != epochs[ch] || b.node.Epoch(ch) != epochs[ch] {
			t.Errorf("%s: a history of %d messages, epoch %s", ch, len(h.Messages), h.Position.Epoch)
		}
	}
}

// A replica whose list is not the recorded one neither serves nor publishes.
func TestAnotherSet(t *testing.T) {
	t.Parallel()
	urls := []string{dbtest.New(t), dbtest.New(t), dbtest.New(t)}
	old := newTestReplica(t, urls[0], nil)
	c := old.joined(t)
	c.wantError(subscribeTo("a", ""), 0)
	cfg := old.node.cfg
	cfg.Pool = must(db.NewPool(context.Background(), db.PoolConfig{URL: urls[0]}))
	cfg.PublishPool, cfg.Logs = cfg.Pool, furtherLogs(t, urls[1:2])
	ahead := must(New(cfg))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ahead.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		cfg.Pool.Close()
	})
	eventually(t, 20*time.Second, "it says why it waits", func() bool {
		err := ahead.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "forgewire logs set")
	})
	if _, err := SetLogs(t.Context(), []string{urls[0], urls[0]}, false); err == nil {
		t.Error("a database twice in one set")
	}
	must(SetLogs(t.Context(), urls[:2], false))
	eventually(t, 20*time.Second, "it begins when the set is its own", func() bool { return ahead.Ready(t.Context()) == nil && len(ahead.LogsAway(t.Context())) == 0 })
	c.wantClosed(int(disconnectOld.Code))
	_, err := old.node.Publish(t.Context(), message("a", 1))
	if e := (*Error)(nil); !errors.As(err, &e) || !e.Temporary || !strings.Contains(e.Message, "not the recorded one") {
		t.Errorf("a replica with another list published: %v", err)
	}
	if err = old.node.Ready(t.Context()); err == nil || !errors.Is(err, errLogSet) {
		t.Errorf("it is ready: %v", err)
	}
	must(ahead.Publish(t.Context(), message(channelIn(0, 2), 1), message(channelIn(1, 2), 1)))
	for _, wrong := range [][]string{{urls[1], urls[0]}, {urls[0]}, {urls[0], urls[2]}, {urls[0], urls[2], urls[1]}} {
		if _, err = SetLogs(t.Context(), wrong, false); err == nil {
			t.Errorf("the set became %v", wrong)
		}
	}
	if again := must(SetLogs(t.Context(), urls[:2], false)); again.Generation != 2 {
		t.Errorf("%+v", again)
	}
	eventually(t, 20*time.Second, "it goes on under the next generation", func() bool {
		_, err := ahead.Publish(t.Context(), message(channelIn(0, 2), 2), message(channelIn(1, 2), 2))
		return err == nil
	})
}

// A log that is added takes channels away: who recovers on one is told that he cannot; on the others everything is there.
func TestAddLog(t *testing.T) {
	t.Parallel()
	urls := []string{dbtest.New(t), dbtest.New(t)}
	before := newTestReplica(t, urls[0], nil)
	stays, moves := channelIn(0, 2), channelIn(1, 2)
	at := map[string]Position{}
	for _, ch := range []string{stays, moves} {
		sent := must(before.node.Publish(t.Context(), message(ch, 1), message(ch, 2)))
		at[ch] = Position{Offset: sent[0].Offset, Epoch: before.node.Epoch(ch)}
	}
	must(SetLogs(t.Context(), urls, false))
	r := spreadReplica(t, urls)
	c := r.joined(t)
	for ch, want := range map[string]int{stays: 1, moves: 0} {
		s := c.wantError(fmt.Sprintf(`"subscribe":{"channel":%q,"recover":true,"offset":%d,"epoch":%q}`, ch, at[ch].Offset, at[ch].Epoch), 0).Subscribe
		if !s.WasRecovering || s.Recovered != (want > 0) || len(s.Publications) != want || (s.Epoch == at[ch].Epoch) != (want > 0) {
			t.Errorf("%s: recovered %t with %d messages, epoch %s after %s", ch, s.Recovered, len(s.Publications), s.Epoch, at[ch].Epoch)
		}
	}
}

// joined is an anonymous client of the replica.
func (r *testReplica) joined(t testing.TB) *wire {
	t.Helper()
	return joined(t, "ws"+strings.TrimPrefix(r.http.URL, "http")+"/connection/websocket", "")
}

func numbers(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// content returns a channel's messages as a log has them.
func content(t testing.TB, url, channel string) (all []string) {
	t.Helper()
	conn := must(pgx.Connect(t.Context(), url))
	defer conn.Close(context.Background())
	rows := must(conn.Query(t.Context(), "SELECT data FROM forgewire.messages WHERE channel = $1 ORDER BY seq", channel))
	return must(pgx.CollectRows(rows, pgx.RowTo[string]))
}

// outage makes a log's database unreachable until the function that it returns is called.
func outage(t testing.TB, url string) (over func()) {
	t.Helper()
	u := must(neturl.Parse(url))
	name := strings.Trim(u.Path, "/")
	u.Path = "/postgres"
	conn := must(pgx.Connect(context.Background(), u.String()))
	must(conn.Exec(t.Context(), fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS false", name)))
	must(conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name))
	over = sync.OnceFunc(func() {
		must(conn.Exec(context.Background(), fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true", name)))
		conn.Close(context.Background())
	})
	t.Cleanup(over)
	return over
}

// A log that is away stops its own channels, and says so; the others go on, and when it is back nothing is missing.
func TestLogAway(t *testing.T) {
	t.Parallel()
	urls := logs(t, 2)
	r := spreadReplica(t, urls)
	works, fails := channelIn(0, 2), channelIn(1, 2)
	c := r.joined(t)
	c.wantError(subscribeTo(works, ""), 0)
	c.wantError(subscribeTo(fails, ""), 0)
	must(r.node.Publish(t.Context(), message(works, 0), message(fails, 0)))
	over := outage(t, urls[1])
	eventually(t, 20*time.Second, "it is known", func() bool { return r.node.LogsAway(t.Context())[1] != "" })
	if err := r.node.Ready(t.Context()); err != nil {
		t.Errorf("the replica is not ready: %v", err)
	}
	_, err := r.node.Publish(t.Context(), message(fails, -1))
	if e := (*Error)(nil); !errors.As(err, &e) || !e.Temporary || !strings.Contains(e.Message, "number 1") {
		t.Errorf("a publish to a log that is away: %v", err)
	}
	var partial *Partial
	sent, err := r.node.Publish(t.Context(), message(fails, -1), message(works, 1))
	if !errors.As(err, &partial) || partial.Errors[0] == nil || partial.Errors[1] != nil || sent[1].Offset == 0 {
		t.Errorf("a batch of which a part can be published: %+v, %v", sent, err)
	}
	if _, err = r.node.History(t.Context(), fails, HistoryFilter{Limit: 1}); err == nil {
		t.Error("a history that nobody could read")
	}
	late := r.joined(t)
	if e := late.wantError(subscribeTo(fails, ""), int(ErrInternal.Code)).Error; !e.Temporary {
		t.Error("the error is for ever")
	}
	late.wantError(subscribeTo(works, ""), 0)
	if s := r.node.Stats(); len(s.Logs) != 2 || !s.Logs[0].Connected || s.Logs[1].Connected || s.Logs[1].Failed == 0 || s.Listener.Connected {
		t.Errorf("%+v", s.Logs)
	}
	// What is published from SQL waits for it.
	pool := r.node.cfg.Pool
	for i := range 3 {
		must(pool.Exec(t.Context(), "SELECT forgewire.publish($1, to_jsonb($2::int))", fails, i+1))
	}
	over()
	eventually(t, 20*time.Second, "it is back", func() bool { return len(r.node.LogsAway(t.Context())) == 0 })
	eventually(t, 20*time.Second, "what waited is there", func() bool { return len(content(t, urls[1], fails)) == 4 })
	must(r.node.Publish(t.Context(), message(fails, 4)))
	got := map[string][]string{}
	for len(got[works])+len(got[fails]) < 2+5 {
		p, code := c.read()
		if code != 0 || p.Push == nil || p.Push.Pub == nil {
			t.Fatalf("%+v, closed with %d, after %v", p, code, got)
		}
		got[p.Push.Channel] = append(got[p.Push.Channel], string(p.Push.Pub.Data))
	}
	if !slices.Equal(got[works], numbers(0, 2)) || !slices.Equal(got[fails], numbers(0, 5)) {
		t.Errorf("%v", got)
	}
}
