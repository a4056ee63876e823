package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// v1 asks a replica's resources, with the server's key.
func (r *replica) v1(ctx context.Context, method, path, contentType, body string) (status int, reply []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.addr+"/v1"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	req.Header.Set("Content-Type", contentType)
	resp, err := llmClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	reply, err = io.ReadAll(resp.Body)
	return resp.StatusCode, reply, err
}

// made creates a resource and returns its id.
func (r *replica) made(path, contentType, body string) (id string) {
	r.t.Helper()
	status, reply, err := r.v1(r.t.Context(), http.MethodPost, path, contentType, body)
	var resource struct{ ID string }
	if err != nil || status >= 300 || json.Unmarshal(reply, &resource) != nil {
		r.t.Fatalf("POST %s: %d %s, %v", path, status, reply, err)
	}
	return resource.ID
}

// An evaluation whose worker is killed in its middle is finished by another replica: each case has one result, and what
// had one before is not asked for again.
func TestEvaluationOutlivesItsReplica(t *testing.T) {
	t.Parallel()
	const cases, batch = 160, 32
	c := newLLM(t, nil, map[string]fakellm.Behaviour{"m": {FirstToken: 300 * time.Millisecond, Fixed: true}})
	a, b := c.replicas[0], c.replicas[1]
	b.term() // so that it is known who has the job
	if err := b.wait(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	prompt := a.made("/prompts", "application/json", `{"name":"echo","template":"{{word}}"}`)
	dataset := a.made("/datasets", "application/json", `{"name":"words"}`)
	var lines strings.Builder
	for i := range cases {
		fmt.Fprintf(&lines, `{"variables":{"word":"word %d"},"expected":"nothing"}`+"\n", i)
	}
	a.made("/datasets/"+dataset+"/cases", "application/x-ndjson", lines.String())
	id := a.made("/evaluations", "application/json", fmt.Sprintf(`{"prompt_id":%q,"dataset_id":%q,"model":"m","scoring":{"type":"exact"}}`, prompt, dataset))
	state := func(r *replica) (e struct {
		Status string
		Done   int
	}, err error) {
		_, reply, err := r.v1(t.Context(), http.MethodGet, "/evaluations/"+id, "application/json", "")
		if err == nil {
			err = json.Unmarshal(reply, &e)
		}
		return e, err
	}
	until(t, 60*time.Second, "its middle", func() string {
		if e, err := state(a); err != nil || e.Done < batch {
			return fmt.Sprintf("%+v, %v", e, err)
		}
		return ""
	})
	a.kill()
	conn := dial(t, c.url)
	var before int
	if err := conn.QueryRow(t.Context(), "SELECT done FROM forgewire.evaluations").Scan(&before); err != nil || before >= cases {
		t.Fatalf("%d of %d cases are done, %v: it was killed too late", before, cases, err)
	}
	askedBefore := c.model.Count("")
	if !long() {
		// Three minutes pass: then whoever has a job counts as dead.
		if _, err := conn.Exec(t.Context(), "UPDATE forgewire.river_job SET attempted_at = attempted_at - interval '10 minutes' WHERE state = 'running'"); err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	b.waitReady(30 * time.Second)
	until(t, lasting(2*time.Minute, 6*time.Minute), "its end", func() string {
		if e, err := state(b); err != nil || e.Status != "done" || e.Done != cases {
			return fmt.Sprintf("%+v, %v", e, err)
		}
		return ""
	})
	_, results, err := b.v1(t.Context(), http.MethodGet, "/evaluations/"+id+"/results", "application/json", "")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for line := range strings.Lines(string(results)) {
		var r struct {
			Case  int
			Error string
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || seen[r.Case] || r.Error != "" {
			t.Errorf("%s: %v", line, err)
		}
		seen[r.Case] = true
	}
	if len(seen) != cases {
		t.Errorf("%d results of %d", len(seen), cases)
	}
	if again := c.model.Count("") - askedBefore; again > cases-before {
		t.Errorf("the model was asked %d times for %d cases", again, cases-before)
	}
}

// Postgres is stopped and started again under HTTP requests: none is answered wrongly, those that cannot be served are told
// to come again, what was answered is there, and afterwards all is as it was.
func TestPostgresRestartedUnderRequests(t *testing.T) {
	variant(t)
	t.Parallel()
	server := ownServer(t, nil)
	c := newCluster(t, 2, options{server: server})
	prompt := c.replicas[0].made("/prompts", "application/json", `{"name":"first","template":"x"}`)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var served, refused atomic.Int64
	var mu sync.Mutex
	made := map[string]bool{}
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			r := c.replicas[worker%2]
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("p-%d-%d", worker, i)
				method, path, body := http.MethodPost, "/prompts", fmt.Sprintf(`{"name":%q,"template":"x"}`, name)
				if i%4 != 0 {
					method, path, body = http.MethodGet, "/prompts/"+prompt, ""
				}
				status, reply, err := r.v1(context.WithoutCancel(ctx), method, path, "application/json", body)
				switch {
				case err != nil:
					t.Errorf("%s %s: %v", method, path, err)
					return
				case status < 300:
					served.Add(1)
					if method == http.MethodPost {
						mu.Lock()
						made[name] = true
						mu.Unlock()
					}
				case status == http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("%s %s: %d %s", method, path, status, reply)
				}
			}
		})
	}
	serves := func() {
		t.Helper()
		was := served.Load()
		until(t, 60*time.Second, "requests being served", func() string {
			if n := served.Load() - was; n < 200 {
				return fmt.Sprintf("%d", n)
			}
			return ""
		})
	}
	for range 2 {
		serves()
		if err := server.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		was := refused.Load()
		until(t, 60*time.Second, "requests being refused", func() string {
			if n := refused.Load() - was; n < 10 {
				return fmt.Sprintf("%d", n)
			}
			return ""
		})
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	serves()
	stop()
	group.Wait()
	there := map[string]bool{}
	rows, err := dial(t, c.url).Query(t.Context(), "SELECT name FROM forgewire.prompts")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		there[name] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for name := range made {
		if !there[name] {
			t.Errorf("%s was answered for, and is not there", name)
		}
	}
	t.Logf("%d requests served, %d refused, %d prompts made", served.Load(), refused.Load(), len(made))
}
