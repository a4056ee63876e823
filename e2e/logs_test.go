package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// severalLogs are the databases of a cluster whose channels are spread.
type severalLogs []string

func (l severalLogs) env() string {
	return "FORGEWIRE_LOG_DATABASE_URLS=" + strings.Join(l[1:], ",")
}

// place is that of the log which has a channel, of so many.
func (l severalLogs) place(t testing.TB, channel string, logs int) int {
	t.Helper()
	return query[int](t, l[0], "SELECT forgewire.place_of($1, $2)", channel, logs)
}

// find returns a channel that is at one place of a list of two, and at another of three.
func (l severalLogs) find(t testing.TB, ofTwo, ofThree int) string {
	t.Helper()
	for i := range 1000 {
		if c := fmt.Sprintf("room:%d", i); l.place(t, c, 2) == ofTwo && l.place(t, c, 3) == ofThree {
			return c
		}
	}
	t.Fatal("no channel is there")
	return ""
}

// audit compares publishers, subscribers and each log.
func (l severalLogs) audit(t testing.TB, book *ledger, subs []*subscriber, channels map[string]int) {
	t.Helper()
	for place, url := range l {
		e := evidence{log: readLog(t, url)}
		book.mu.Lock()
		for _, s := range book.all {
			if channels[s.channel] == place {
				e.sent = append(e.sent, s)
			}
		}
		book.mu.Unlock()
		for _, s := range subs {
			for _, h := range s.histories() {
				if channels[h.channel] == place {
					e.histories = append(e.histories, h)
				}
			}
		}
		for _, what := range check(e) {
			t.Errorf("log %d: %s", place, what)
		}
	}
}

// Two servers with a log each. One is killed: its channels stop with errors, the other's flow, and when it is back nothing
// that was acknowledged is missing, from SQL neither. Then a third log is added: what stays goes on, and who was on a
// channel that moves is told.
func TestSeveralLogs(t *testing.T) {
	heavy(t)
	second := ownServer(t, nil)
	l := severalLogs{newDatabase(t, sharedServer(t)), newDatabase(t, second)}
	c := newCluster(t, 2, options{url: l[0], env: []string{l.env()}})
	until(t, 30*time.Second, "both logs", func() string { return strings.Join([]string{c.replicas[0].health(), c.replicas[1].health()}, "") })
	stays, fails, moves := l.find(t, 0, 0), l.find(t, 1, 1), l.find(t, 0, 2)
	book := newLedger()
	subs := []*subscriber{c.subscribe(0, stays, fails, moves), c.subscribe(1, stays, fails, moves)}
	f := c.flood(book, stays, fails)
	progressOn(c, book, subs, stays, fails)
	if err := second.Kill(); err != nil {
		t.Fatal(err)
	}
	var refused *apiError
	until(t, 20*time.Second, "its channels refusing", func() string {
		if _, _, err := book.post(c.replicas[0], fails); !errors.As(err, &refused) {
			return fmt.Sprint(err)
		}
		return ""
	})
	if refused.Status != http.StatusServiceUnavailable || refused.Code != 100 || !strings.Contains(refused.Message, "log (number 1)") {
		t.Errorf("a publish was refused with %v", refused)
	}
	progressOn(c, book, subs, stays)
	for _, r := range c.replicas {
		if why := r.ready(); why != "" {
			t.Errorf("%s is not ready: %s", r.name, why)
		}
		until(t, 20*time.Second, "the health says which", func() string {
			if m := metricsOf(t, r); metric(t, m, `forgewire_log_connected{log="1"}`) != 0 || metric(t, m, `forgewire_log_connected{log="0"}`) != 1 {
				t.Errorf("%s does not count its logs", r.name)
			}
			if h := r.health(); !strings.Contains(h, `"degraded"`) || !strings.Contains(h, `"1":`) {
				return "it says " + h
			}
			return ""
		})
	}
	during(t, time.Second)
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	progressOn(c, book, subs, stays, fails)
	f.stop()
	l.settle(t, c, book, subs, stays, fails)
	l.audit(t, book, subs, map[string]int{stays: 0, fails: 1, moves: -1})
	nobodyWasTold(t, subs)
	l.add(t, c, book, subs, stays, fails, moves)
}

// add adds a third log: a replica with the longer list waits until the set is changed, and takes over.
func (l severalLogs) add(t *testing.T, c *cluster, book *ledger, subs []*subscriber, stays, fails, moves string) {
	longer := append(l[:len(l):len(l)], newDatabase(t, sharedServer(t)))
	next := newReplica(t, 2, []string{"DATABASE_URL=" + l[0], longer.env()})
	next.start()
	until(t, 30*time.Second, "the next replica waiting", func() string {
		if why := next.ready(); !strings.Contains(why, "forgewire logs set") {
			return "it says " + why
		}
		return ""
	})
	c.replicas = append(c.replicas, next)
	for _, s := range subs {
		s.mu.Lock()
		s.replicas = append(s.replicas, next)
		s.mu.Unlock()
		s.prefer(next)
	}
	f := c.flood(book, stays, fails) // what is published on the old replicas after the switch is refused
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, forgewire(t), "logs", "set")
	cmd.Env = []string{"DATABASE_URL=" + l[0], longer.env()}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "generation 2") {
		t.Fatalf("%v: %s", err, out)
	}
	next.waitReady(20 * time.Second)
	until(t, 20*time.Second, "a replica with the old list saying so", func() string {
		if why := c.replicas[0].ready(); !strings.Contains(why, "not the recorded one") {
			return "it says " + why
		}
		return ""
	})
	for _, s := range subs {
		s.waitCount(moves, told, 1, 30*time.Second)
	}
	f.stop()
	c.replicas = c.replicas[2:]
	longer.settle(t, c, book, subs, stays, fails)
	longer.audit(t, book, subs, map[string]int{stays: 0, fails: 1, moves: -1})
	for _, s := range subs {
		for _, channel := range []string{stays, fails} {
			if n := s.count(channel, told); n != 0 {
				t.Errorf("%s was told %d times of a loss on a channel that stays", s.name, n)
			}
		}
	}
}

// settle waits until what was published from SQL is in its log, and everybody has the last message of each channel.
func (l severalLogs) settle(t testing.TB, c *cluster, book *ledger, subs []*subscriber, channels ...string) {
	t.Helper()
	until(t, 30*time.Second, "nothing on its way", func() string {
		if n := query[int](t, l[0], "SELECT (SELECT count(*) FROM forgewire.outbox) + (SELECT count(*) FROM forgewire.forwarding) + (SELECT count(*) FROM forgewire.forwards)"); n > 0 {
			return fmt.Sprintf("%d wait", n)
		}
		return ""
	})
	progressOn(c, book, subs, channels...)
}

// progressOn waits until everybody sees what is published now on each of these channels.
func progressOn(c *cluster, book *ledger, subs []*subscriber, channels ...string) {
	c.t.Helper()
	for _, channel := range channels {
		var id string
		until(c.t, 30*time.Second, "a publish on "+channel, func() string {
			made, _, err := book.post(c.replicas[0], channel)
			if err != nil {
				return err.Error()
			}
			id = made
			return ""
		})
		for _, s := range subs {
			s.waitFor(channel, id, 30*time.Second)
		}
	}
}

// health is what is wrong with the replica or one of its logs, or "".
func (r *replica) health() string {
	status, body, err := r.readyz()
	switch {
	case err != nil:
		return err.Error()
	case !strings.Contains(body, `{"status":"ok"}`):
		return fmt.Sprintf("%d %s", status, body)
	}
	return ""
}
