package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// recoverWithin is how long everything may take to work again after a fault is over: what a client notices late is a
// network that swallows everything, after its 35 s; the rest is for machines that are busy. The report has what it took.
const recoverWithin = 2 * time.Minute

// recovered waits until everything works again: every replica is ready; what is published over each of them, and from
// SQL, reaches everybody; a model's answer is made on one and found on another; what is written on one is read on
// another. It returns how long that took.
func (w *chaos) recovered() time.Duration {
	t := w.t
	t.Helper()
	begin := time.Now()
	by := begin.Add(recoverWithin)
	var steps []string // what took long
	step := begin
	at := func(what string) {
		if took := time.Since(step); took > 5*time.Second {
			steps = append(steps, fmt.Sprintf("%s %v", what, took.Round(100*time.Millisecond)))
		}
		step = time.Now()
	}
	for _, r := range w.replicas {
		r.waitReady(time.Until(by))
		at(r.name + " ready")
	}
	for i, r := range w.front.replicas {
		w.everybodySees(t, by, "over "+r.name, func(channel string) (string, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			id := w.book.id("marker")
			begin := time.Now()
			p, err := w.front.replicas[i].publish(ctx, channel, body(id))
			w.book.note(channel, id, p.Offset, err, time.Since(begin))
			return id, err
		})
		at("publishes over " + r.name)
	}
	w.everybodySees(t, by, "from SQL", func(channel string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := pgx.Connect(ctx, w.fromTheApp.url(t, w.url))
		if err != nil {
			return "", err
		}
		defer conn.Close(ctx)
		id := w.book.id("order")
		begin := time.Now()
		_, err = conn.Exec(ctx, "WITH o AS (INSERT INTO orders VALUES ($1)) SELECT forgewire.publish($2, jsonb_build_object('id', $1::text))", id, channel)
		w.book.note(channel, id, 0, err, time.Since(begin))
		return id, err
	})
	at("publishes from SQL")
	w.answersAgain(by)
	at("answers")
	w.writesAgain(by)
	at("writes")
	if len(steps) > 0 {
		t.Logf("slow: %s", strings.Join(steps, ", "))
	}
	return time.Since(begin)
}

// answersAgain waits until the model answers over each replica, and another one has the answer too.
func (w *chaos) answersAgain(by time.Time) {
	w.t.Helper()
	for i := range w.replicas {
		until(w.t, time.Until(by), "an answer made on one replica being found on another", func() string {
			question := w.book.id("question")
			text, _, err := w.load.answer("acme", i, question, i%2 == 0)
			if err != nil {
				return err.Error()
			}
			w.load.judge("acme", question, text)
			again, status, err := w.load.answer("acme", (i+1)%chaosReplicas, question, i%2 == 1)
			if err != nil {
				return err.Error()
			}
			w.load.judge("acme", question, again)
			if w.valkey != nil && (status != "hit" || again != text) {
				return status
			}
			return ""
		})
	}
}

// writesAgain waits until a prompt that one replica made is read on each.
func (w *chaos) writesAgain(by time.Time) {
	w.t.Helper()
	for i, r := range w.front.replicas {
		until(w.t, time.Until(by), "a prompt made over "+r.name+" being read on all", func() string {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			name := w.book.id("prompt")
			b, status, err := w.load.request(ctx, "acme", http.MethodPost, "http://"+r.addr+"/v1/prompts",
				fmt.Appendf(nil, `{"name":%q,"template":%q}`, name, name))
			if err != nil || status != http.StatusCreated {
				return fmt.Sprintf("%v, %d %s", err, status, b)
			}
			var p prompt
			if err = json.Unmarshal(b, &p); err != nil {
				return err.Error()
			}
			for n := range w.front.replicas {
				at := w.front.replicas[(i+n)%chaosReplicas]
				if b, status, err = w.load.request(ctx, "acme", http.MethodGet, "http://"+at.addr+"/v1/prompts/"+p.ID, nil); err != nil || status != http.StatusOK {
					return fmt.Sprintf("%s: %v, %d %s", at.name, err, status, b)
				}
			}
			return ""
		})
	}
}

// settle stops the load, waits until everybody has everything, checks all that happened since the last time, and
// forgets it.
func (w *chaos) settle() {
	t := w.t
	t.Helper()
	w.now("the check")
	w.load.stop()
	until(t, 30*time.Second, "the outbox running empty", func() string {
		n, err := tryQuery[int](w.url, "SELECT count(*) FROM forgewire.outbox")
		if err != nil || n > 0 {
			return fmt.Sprintf("%d wait, %v", n, err)
		}
		return ""
	})
	w.everybodySees(t, time.Now().Add(recoverWithin), "last", func(channel string) (string, error) {
		id, _, err := w.book.post(w.replicas[int(markers.Add(1))%chaosReplicas], channel)
		return id, err
	})
	e := evidence{log: slices.DeleteFunc(readLog(t, w.url), notOfTheLoad), wentBack: w.mayHaveLost()}
	w.book.mu.Lock()
	e.sent = slices.Clone(w.book.all)
	w.book.all, w.loses = nil, false
	clear(w.book.why)
	w.book.mu.Unlock()
	old := 0
	for i, r := range e.log {
		if r.offset <= w.checkedUpTo {
			old = i + 1
		}
	}
	if old != w.checkedRows {
		w.wrongly("%d messages had been checked, and %d of them are left", w.checkedRows, old)
	}
	e.log = e.log[old:]
	w.eachOrderOnce(e.log)
	for _, x := range w.crowd {
		for _, h := range x.histories() {
			e.histories = append(e.histories, h)
			for _, s := range h.sightings {
				switch s.kind {
				case message:
					w.tally.checked.Add(1)
				case told:
					w.tally.tellings.Add(1)
					if !e.wentBack {
						w.wrongly("%s was told that something is missing on %s, and nothing was", h.subscriber, h.channel)
					}
				}
			}
		}
	}
	for _, what := range check(e) {
		w.wrongly("%s", what)
	}
	w.countLost(e)
	w.load.checkWrites()
	if n := len(e.log); n > 0 {
		w.checkedUpTo, w.checkedRows = e.log[n-1].offset, w.checkedRows+n
	}
	for _, x := range w.crowd {
		x.forget(w.checkedUpTo)
	}
}

// countLost counts what was acknowledged and went with an accident that loses commits on purpose.
func (w *chaos) countLost(e evidence) {
	there := map[string]bool{}
	for _, r := range e.log {
		there[r.id] = true
	}
	for _, s := range e.sent {
		if s.acked && !there[s.id] {
			w.tally.gone.Add(1)
		}
	}
}

// eachOrderOnce demands that what was published together with a row of the application's own table is in the log if
// and only if the row is there, whatever its publisher was told.
func (w *chaos) eachOrderOnce(log []row) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "DELETE FROM orders RETURNING id")
	if err != nil {
		w.t.Fatal(err)
	}
	orders := map[string]int{}
	var id string
	if _, err = pgx.ForEachRow(rows, []any{&id}, func() error { orders[id]++; return nil }); err != nil {
		w.t.Fatal(err)
	}
	w.tally.inserted.Add(int64(len(orders)))
	for _, r := range log {
		if fromSQL(r.id) {
			orders[r.id]--
		}
	}
	for id, n := range orders {
		if n != 0 {
			w.wrongly("order %s: its row less its messages is %d", id, n)
		}
	}
}

// fromSQL says whether a message's id is one that was published together with an order.
func fromSQL(id string) bool { return strings.HasPrefix(id, "sql-") || strings.HasPrefix(id, "order-") }

// notOfTheLoad says whether a message is the model's, whose streams are channels too, or tells of a prompt.
func notOfTheLoad(r row) bool {
	return !slices.Contains(chaosChannels, r.channel) && r.channel != bigChannel
}
