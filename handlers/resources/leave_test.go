package resources_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"
)

// What a client asked for that has left is not waited for in the database either.
func TestReadsEndWithTheirClients(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	r := s.replicas[0]
	_, set := ready(t, s, 1)
	holder := must(pgx.Connect(t.Context(), s.url))
	defer holder.Close(context.Background())
	for path, table := range map[string]string{"/v1/datasets": "datasets", "/v1/datasets/" + set + "/cases": "dataset_cases", "/v1/runs": "runs",
		"/v1/runs/export": "runs", "/v1/usage": "usage"} {
		table = "forgewire." + table
		hold := must(holder.Begin(t.Context()))
		must(hold.Exec(t.Context(), "LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE"))
		waiting := func() (n int) {
			err := s.replicas[1].pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%SELECT%' || $1 || '%'`, table).Scan(&n)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			req := must(http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil))
			req.Header.Set("Authorization", "Bearer "+s.acme)
			resp, err := http.DefaultClient.Do(req)
			if err == nil { // a stream has begun
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			ended <- err
		}()
		eventually(t, path+" waits for "+table, func() bool { return waiting() == 1 })
		leave()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
		eventually(t, path+" waits no more", func() bool { return waiting() == 0 })
		if err := hold.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
