package access

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/db/dbtest"
)

func (r *replica) list(t testing.TB, key, query string) RunPage {
	t.Helper()
	w := r.get(key, "/v1/runs?"+query)
	var l RunPage
	if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s", query, w.Code, w.Body)
	}
	return l
}

// written waits until n runs are in the database.
func (r *replica) written(t testing.TB, n uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d runs written", n), func() bool { return r.Stats().Written >= n })
}

func TestRuns(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, nil)
	_, stranger := createKey(t, r.pool, func(k *db.Key) { k.Tenant = "evil" })
	caller := llm.Caller{Tenant: "acme", KeyID: id}
	began := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
	for i := range 25 {
		x := run(caller, llm.Miss, 10, 7)
		x.Started = began.Add(time.Duration(i/2) * time.Second) // two at each moment
		switch {
		case i%5 == 1:
			x.Cache, x.Upstream, x.CostMicros, x.SavedMicros = llm.Hit, "", 0, 7
		case i%5 == 2:
			x.Model, x.Status, x.Error, x.FirstToken, x.PromptTokens, x.CompletionTokens, x.CostMicros = "bad\x00\xff", 500, "upstream_error", 0, 0, 0, 0
		case i%5 == 3:
			x.CostMicros, x.ID = 0, "resp_2" // no price
		}
		r.Record(x)
	}
	r.Record(run(llm.Caller{Tenant: "default"}, llm.Miss, 10, 7))
	r.written(t, 26)

	seen := map[string]bool{}
	var all []Run
	for query := "limit=7"; query != ""; {
		l := r.list(t, key, query)
		query = ""
		if l.HasMore != (l.After != nil) || l.HasMore && len(l.Data) != 7 {
			t.Fatalf("%+v", l)
		}
		if l.After != nil {
			query = "limit=7&after=" + *l.After
		}
		for _, x := range l.Data {
			if seen[x.ID] {
				t.Errorf("%s twice", x.ID)
			}
			if n := len(all); n > 0 && x.Started.After(all[n-1].Started) {
				t.Error("not the newest first")
			}
			seen[x.ID] = true
			all = append(all, x)
		}
	}
	if len(all) != 25 {
		t.Fatalf("%d runs", len(all))
	}
	since, until := began.Add(2*time.Second), began.Add(4*time.Second)
	for query, want := range map[string]int{
		"limit=100":              25,
		"limit=100&model=gpt-4o": 20,
		"limit=100&model=bad":    5, // what no text can hold is left out
		"limit=100&status=500":   5,
		"cache=hit":              5,
		"cache=miss&status=200":  15,
		"answer_id=resp_2":       5,
		"model=none":             0,
		"since=" + stamp(since) + "&until=" + stamp(until): 4,
		fmt.Sprintf("since=%d", time.Now().Unix()+100):     0,
	} {
		if l := r.list(t, key, query); len(l.Data) != want {
			t.Errorf("%s: %d, want %d", query, len(l.Data), want)
		}
	}
	if l := r.list(t, serverKey, ""); len(l.Data) != 1 || l.Data[0].KeyID != nil {
		t.Errorf("the server's own: %+v", l)
	}
	if l := r.list(t, stranger, ""); len(l.Data) != 0 {
		t.Errorf("a stranger sees %+v", l)
	}
	for _, x := range all {
		if w := r.get(stranger, "/v1/runs/"+x.ID); w.Code != http.StatusNotFound || code(t, w) != "not_found" {
			t.Fatalf("a stranger reads %s", w.Body)
		}
		var one Run
		w := r.get(key, "/v1/runs/"+x.ID)
		if err := json.Unmarshal(w.Body.Bytes(), &one); err != nil || w.Code != 200 || one.ID != x.ID || *one.KeyID != id {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		unpriced := x.AnswerID == "resp_2"
		if (one.CostMicros == nil) != unpriced || (one.FirstTokenMS == nil) != (x.Status == 500) || one.DurationMS != 1500 {
			t.Errorf("%s", w.Body)
		}
	}
}

func stamp(t time.Time) string { return url.QueryEscape(t.Format(time.RFC3339Nano)) }

func TestRunBodies(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, func(k *db.Key) { k.LogBodies = true })
	_, stranger := createKey(t, r.pool, func(k *db.Key) { k.Tenant = "evil" })
	if c, why := r.verifier.verify(t.Context(), key); why != nil || !c.LogBodies {
		t.Errorf("%+v %v", c, why)
	}
	caller := llm.Caller{Tenant: "acme", KeyID: id}
	x := run(caller, llm.Miss, 1, 1)
	x.Bodies = &llm.Bodies{Request: []byte(`{"model":"m"}`), Answer: []byte("tangerine"), Cut: true}
	r.Record(x)
	r.Record(run(caller, llm.Hit, 1, 1))
	r.written(t, 2)
	kept := 0
	for _, listed := range r.list(t, key, "").Data {
		w := r.get(key, "/v1/runs/"+listed.ID)
		var got RunDetail
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		switch {
		case got.Request == `{"model":"m"}` && got.Answer == "tangerine" && got.BodiesCut && got.Cache == string(llm.Miss):
			kept++
		case strings.Contains(w.Body.String(), `"request":`) || strings.Contains(w.Body.String(), "bodies"):
			t.Errorf("%s", w.Body)
		}
		if w := r.get(stranger, "/v1/runs/"+listed.ID); w.Code != 404 {
			t.Errorf("a stranger: %d %s", w.Code, w.Body)
		}
	}
	if kept != 1 || strings.Contains(r.get(key, "/v1/runs").Body.String(), "tangerine") || strings.Contains(r.logs.String(), "tangerine") {
		t.Errorf("%d kept, %s", kept, r.get(key, "/v1/runs").Body)
	}
}

// Bodies that wait are bounded together; a run whose bodies do not fit is recorded without them, and one of a server
// that keeps none too.
func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	big := &llm.Bodies{Request: make([]byte, llm.MaxLoggedBytes), Answer: make([]byte, llm.MaxLoggedBytes)}
	j := newJournal(nil, nil, time.Hour, time.Hour) // nobody writes
	const fit = maxBodies / (2 * llm.MaxLoggedBytes)
	for range fit + 10 {
		x := run(llm.Caller{}, llm.Miss, 1, 1)
		x.Bodies = big
		j.record(&x)
	}
	if with := j.left.Load(); with != 10 || len(j.queue) != fit+10 || j.held.Load() != maxBodies {
		t.Errorf("%d left out, %d runs, %d bytes", with, len(j.queue), j.held.Load())
	}
	for range fit + 10 {
		j.release(<-j.queue)
	}
	if n := j.held.Load(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
	if newJournal(nil, nil, time.Hour, 0).hold(big) != nil {
		t.Error("a server that keeps none keeps them")
	}
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "limit=1&limit=2", "after=x", "after=" + encodeCursor(db.Run{ID: "run_'"}),
		"after=" + strings.Repeat("a", 1000), "status=2xx", "status=99", "cache=maybe", "since=yesterday", "since=-1", "since=99999999999999",
		"until=0001-01-01T00:00:00Z", "tenant=evil", "model=", "model=%00", "model=%ff", "model=" + strings.Repeat("a", 300), "a=%zz"} {
		if w := r.get(serverKey, "/v1/runs?"+query); w.Code != http.StatusBadRequest || code(t, w) != "invalid_parameter" {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	for _, id := range []string{"x", "run_", "run_%27", "run_" + strings.Repeat("a", 100), "run_aaaa"} {
		if w := r.get(serverKey, "/v1/runs/"+id); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d %s", id, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/v1/runs", "/v1/runs/run_aaaa", "/v1/usage"} {
		if w := r.get("fw_no", path); w.Code != http.StatusUnauthorized {
			t.Errorf("%s without a key: %d", path, w.Code)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(encodeCursor(db.Run{ID: "run_abc", Started: time.Now()}))
	f.Add("MSAx")
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := decodeCursor(text)
		if ok && !isRunID(c.ID) {
			t.Errorf("%q: %+v", text, c)
		}
		if again, ok2 := decodeCursor(encodeCursor(db.Run{ID: c.ID, Started: c.Started})); ok && (!ok2 || again.ID != c.ID || !again.Started.Equal(c.Started)) {
			t.Errorf("%q: %+v, again %+v", text, c, again)
		}
	})
}

// A queue that is full drops runs at once, and counts them; what is used is counted all the same.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	pool := newPool(t, dbtest.New(t))
	r := newReplica(t, pool)
	if _, err := pool.Exec(t.Context(), "ALTER TABLE forgewire.runs RENAME TO away"); err != nil {
		t.Fatal(err)
	}
	const n = maxQueued + maxBatch + 100
	began := time.Now()
	for range n {
		r.Record(run(llm.Caller{Tenant: "default"}, llm.Miss, 10, 7))
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("to record took %v", d)
	}
	dropped := r.Stats().Dropped
	if dropped < 100 || dropped > 100+maxBatch {
		t.Errorf("%+v", r.Stats())
	}
	eventually(t, "a warning", func() bool { return strings.Contains(r.logs.String(), "runs were dropped") })
	if _, err := pool.Exec(t.Context(), "ALTER TABLE forgewire.away RENAME TO runs"); err != nil {
		t.Fatal(err)
	}
	r.written(t, n-dropped)
	r.settled(t)
	var used Usage
	if err := json.Unmarshal(r.get(serverKey, "/v1/usage").Body.Bytes(), &used); err != nil || used.Total.Requests != n || used.Total.CostMicros != n*7 {
		t.Errorf("%+v, %v", used, err)
	}
}

// A database that is away when the replica stops costs the last runs, which are counted, and a few seconds.
func TestStopWhileDatabaseIsAway(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	r.pool.Close()
	for range 10 {
		r.Record(run(llm.Caller{Tenant: "default"}, llm.Miss, 10, 7))
	}
	began := time.Now()
	r.stop()
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("it took %v", d)
	}
	if s := r.Stats(); s.Dropped != 10 || s.Written != 0 {
		t.Errorf("%+v", s)
	}
	if l := r.logs.String(); !strings.Contains(l, "the last runs are lost") || !strings.Contains(l, "used last is lost") {
		t.Error(l)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, nil)
	other, _ := createKey(t, r.pool, nil)
	stranger, strangers := createKey(t, r.pool, func(k *db.Key) { k.Tenant = "evil" })
	hit := run(llm.Caller{Tenant: "acme", KeyID: id}, llm.Hit, 10, 0)
	hit.SavedMicros = 7
	r.Record(hit)
	r.Record(run(llm.Caller{Tenant: "acme", KeyID: id}, llm.Miss, 10, 7))
	r.settled(t) // so that the next is added to a row that is there
	r.Record(run(llm.Caller{Tenant: "acme", KeyID: id}, llm.Miss, 20, 0))
	r.Record(run(llm.Caller{Tenant: "acme", KeyID: other}, llm.Miss, 2, 1))
	r.Record(run(llm.Caller{Tenant: "evil", KeyID: stranger}, llm.Miss, 1000, 1000))
	r.settled(t)
	var u Usage
	w := r.get(key, "/v1/usage")
	if err := json.Unmarshal(w.Body.Bytes(), &u); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	want := UsageSum{Requests: 4, Cached: 1, Unpriced: 1, PromptTokens: 16, CompletionTokens: 16, CostMicros: 8, SavedMicros: 7}
	if u.Total != want || len(u.Keys) != 2 || u.Tenant != "acme" || u.Since.Day() != 1 || u.Until.Day() != 1 {
		t.Errorf("%s", w.Body)
	}
	if err := json.Unmarshal(r.get(strangers, "/v1/usage").Body.Bytes(), &u); err != nil || u.Total.CostMicros != 1000 {
		t.Errorf("%+v", u)
	}
}

// What the run log takes from the database's side: runs a second, written.
func BenchmarkJournal(b *testing.B) {
	r := newReplica(b, newPool(b, dbtest.New(b)))
	for i := range b.N {
		if i%(maxQueued/4) == 0 && i > maxQueued/2 {
			r.written(b, uint64(i-maxQueued/2))
		}
		r.Record(run(llm.Caller{Tenant: DefaultTenant}, llm.Miss, 10, 7))
	}
	r.written(b, uint64(b.N))
	if d := r.Stats().Dropped; d > 0 {
		b.Errorf("%d dropped", d)
	}
}
