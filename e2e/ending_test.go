package e2e

import (
	"sync"
	"syscall"
	"testing"
	"time"
)

// A replica ends within its grace also while its database does not answer and requests wait for it: platforms kill
// what does not.
func TestEndsWhilePostgresIsSilent(t *testing.T) {
	t.Parallel()
	const grace = 2 * time.Second
	way := newProxy(t, sharedServer(t).Port())
	database := newDatabase(t, sharedServer(t))
	c := newCluster(t, 1, options{url: database, env: []string{"FORGEWIRE_SHUTDOWN_TIMEOUT=2s"}, urls: func(int) (string, string) {
		return way.url(t, database), way.url(t, database)
	}})
	r := c.replicas[0]
	r.mustPublish("room:1", map[string]string{"id": "1"})
	way.swallow()
	var asked sync.WaitGroup
	defer asked.Wait()
	for range 20 {
		asked.Go(func() { _, _ = r.publish(t.Context(), "room:1", map[string]string{"id": "2"}) })
		asked.Go(func() { _, _, _ = r.post(t.Context(), "presence", apiKey, []byte(`{"channel":"room:1"}`)) })
		asked.Go(func() { _, _, _ = r.post(t.Context(), "history", apiKey, []byte(`{"channel":"room:1","limit":1}`)) })
	}
	during(t, time.Second)
	began := time.Now()
	r.signal(syscall.SIGTERM)
	if err := r.wait(30 * time.Second); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(began); took > grace+8*time.Second {
		t.Errorf("it ended %v after it was told to, with a grace of %v", took, grace)
	}
}
