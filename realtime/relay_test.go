package realtime

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The relay's queue is bounded, a database that is away is told as something to try again, and after its end
// nobody waits for it.
func TestRelay(t *testing.T) {
	t.Parallel()
	pool := must(pgxpool.New(context.Background(), "postgres://127.0.0.1:1/none"))
	pool.Close()
	r := newRelay(pool)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for range maxRelayed {
		if err := r.forward(gone, control{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("a caller that left: %v", err)
		}
	}
	if err := r.forward(t.Context(), control{}); !errors.Is(err, ErrTooManyRequests) {
		t.Fatalf("not bounded: %v", err)
	}
	if err := r.forward(t.Context(), control{Data: make([]byte, maxForwarded+1)}); statusAfter(t, err) != 413 {
		t.Fatalf("too large: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	var err error
	eventually(t, 20*time.Second, "the queue is worked off", func() bool {
		err = r.forward(t.Context(), control{})
		return !errors.Is(err, ErrTooManyRequests)
	})
	if statusAfter(t, err) != 503 {
		t.Fatalf("no database: %v", err)
	}
	stop()
	if err = <-ended; err != nil {
		t.Fatal(err)
	}
	if err = r.forward(t.Context(), control{}); statusAfter(t, err) != 503 {
		t.Fatalf("after its end: %v", err)
	}
}

// statusAfter is what a request gets that could not be passed on.
func statusAfter(t *testing.T, err error) int {
	t.Helper()
	n := &Node{logger: slog.New(slog.DiscardHandler)}
	w := httptest.NewRecorder()
	n.refuseForward(w, httptest.NewRequest("POST", "/emulation", nil), err)
	return w.Code
}

// The largest command that is passed on fits into a notification, whatever its bytes.
func TestForwardedFits(t *testing.T) {
	t.Parallel()
	a, b := twoReplicas(t, nil)
	s := openStream(t, "POST", a.url("/connection/http_stream"), `{"id":1,"connect":{}}`)
	c := s.reply().Connect
	command := `{"id":2,"ping":{}}`
	for len(command) < maxForwarded {
		command += "\n"
	}
	if status, why := emulate(t, b, c.Node, c.Session, command); status != 204 {
		t.Fatal(status, why)
	}
	if r := s.reply(); r.ID != 2 {
		t.Fatalf("%+v", r)
	}
}
