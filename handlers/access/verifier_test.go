package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"forgewire/cache/llm"
	"forgewire/db"
	"forgewire/db/dbtest"
)

func TestGoodKeys(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, func(k *db.Key) {
		k.Models, k.Shared = []string{"gpt-*", "o4-mini"}, true
		k.Expires = new(time.Now().Add(time.Hour))
	})
	for key, want := range map[string]llm.Caller{
		serverKey: {Tenant: "default"},
		key:       {Tenant: "acme", KeyID: id, Models: []string{"gpt-*", "o4-mini"}, Shared: true},
	} {
		for range 2 { // from the database, and from memory
			w := r.ask(key)
			var got llm.Caller
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%d %s, want %v", w.Code, w.Body, want)
			}
		}
	}
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, nil)
	_, other := createKey(t, r.pool, nil)
	_, expired := createKey(t, r.pool, func(k *db.Key) { k.Expires = new(time.Now().Add(-time.Second)) })
	revokedID, revoked := createKey(t, r.pool, nil)
	if err := db.RevokeKey(t.Context(), r.pool, revokedID); err != nil {
		t.Fatal(err)
	}
	_, unknown, _ := NewKey()
	for _, c := range []struct {
		name, authorization, code string
	}{
		{"no key", "", "missing_api_key"},
		{"empty", "Bearer ", "missing_api_key"},
		{"another scheme", "Basic " + key, "missing_api_key"},
		{"not a key", "Bearer sk-1234", "invalid_api_key"},
		{"SQL", "Bearer ' OR 1=1--", "invalid_api_key"},
		{"SQL in the id", "Bearer fw_' OR 1=1 OR 'a_" + key[20:], "invalid_api_key"},
		{"long", "Bearer " + strings.Repeat("a", 10000), "invalid_api_key"},
		{"unknown id", "Bearer " + unknown, "invalid_api_key"},
		{"another key's secret", "Bearer fw_" + id + other[19:], "invalid_api_key"},
		{"one letter off", "Bearer " + key[:len(key)-2] + flip(key[len(key)-2]) + key[len(key)-1:], "invalid_api_key"},
		{"cut", "Bearer " + key[:len(key)-1], "invalid_api_key"},
		{"upper case", "Bearer " + strings.ToUpper(key), "invalid_api_key"},
		{"almost the server's", "Bearer " + serverKey + "x", "invalid_api_key"},
		{"expired", "Bearer " + expired, "api_key_expired"},
		{"revoked", "Bearer " + revoked, "api_key_revoked"},
	} {
		for range 2 {
			w := r.do("POST", "/v1/chat/completions", "Authorization", c.authorization)
			if got := code(t, w); w.Code != http.StatusUnauthorized || got != c.code || w.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
			}
		}
	}
	w := r.do("POST", "/v1/chat/completions", "Authorization", "Bearer "+key, "Authorization", "Bearer "+other)
	if w.Code != http.StatusUnauthorized {
		t.Errorf("two keys: %d", w.Code)
	}
	if w := r.ask(key); w.Code != 200 {
		t.Errorf("the good key: %d %s", w.Code, w.Body)
	}
	for _, secret := range []string{key, other, unknown, revoked, serverKey} {
		if strings.Contains(r.logs.String(), secret[len(secret)-10:]) {
			t.Error("a key is in the log")
		}
	}
}

func flip(c byte) string {
	if c == 'a' {
		return "b"
	}
	return "a"
}

// A replica without a server key has none, not an empty one.
func TestNoServerKey(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	r.verifier.hasServer = false
	if w := r.ask(serverKey); w.Code != http.StatusUnauthorized {
		t.Errorf("%d", w.Code)
	}
}

func TestKeyExpiresWhileItIsRemembered(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	_, key := createKey(t, r.pool, func(k *db.Key) { k.Expires = new(time.Now().Add(time.Second)) })
	if w := r.ask(key); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	eventually(t, "expired", func() bool { return r.ask(key).Code == http.StatusUnauthorized })
}

// What one place revokes, by whatever way, every replica refuses at once, although each remembers the key.
func TestRevokedEverywhereAtOnce(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	pool := newPool(t, url)
	a, b := newReplica(t, pool), newReplica(t, newPool(t, url))
	listen(t, url, a, b)
	for name, revoke := range map[string]string{
		"the function": "SELECT forgewire.revoke_key($1)",
		"an update":    "UPDATE forgewire.keys SET expires_at = now() - interval '1 second' WHERE id = $1",
		"a delete":     "DELETE FROM forgewire.keys WHERE id = $1",
	} {
		id, key := createKey(t, pool, func(k *db.Key) { k.RequestsPerMinute = new(int64(1000)) })
		_, stays := createKey(t, pool, nil)
		for _, r := range []*replica{a, b} {
			if r.ask(key).Code != 200 || r.ask(stays).Code != 200 {
				t.Fatal("a good key is refused")
			}
		}
		if _, err := pool.Exec(t.Context(), revoke, id); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for _, r := range []*replica{a, b} {
			eventually(t, name, func() bool { return r.ask(key).Code == http.StatusUnauthorized })
			if r.ask(stays).Code != 200 {
				t.Errorf("%s: another key is refused", name)
			}
		}
		if d := time.Since(began); d > freshFor/10 {
			t.Errorf("%s: after %v: not by the announcement", name, d)
		}
	}
}

// A replica that may have missed an announcement asks anew.
func TestMissedAnnouncement(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, nil)
	if w := r.ask(key); w.Code != 200 {
		t.Fatal(w.Code)
	}
	if err := db.RevokeKey(t.Context(), r.pool, id); err != nil {
		t.Fatal(err)
	}
	if err := db.RevokeKey(t.Context(), r.pool, id); !errors.Is(err, db.ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	if w := r.ask(key); w.Code != 200 {
		t.Fatalf("%d: it is not remembered, so this test shows nothing", w.Code)
	}
	r.Hear(nil)
	if w := r.ask(key); code(t, w) != "api_key_revoked" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// What was read before a change that was heard is not remembered, and nobody who comes later gets it.
func TestRevokedWhileItIsLookedUp(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, nil)
	v := r.verifier
	var once sync.Once
	v.learned = func(db.Key, db.Standing) { // it was read, and is not yet remembered
		once.Do(func() {
			if err := db.RevokeKey(t.Context(), r.pool, id); err != nil {
				t.Error(err)
			}
			v.hear(id)
			if _, why := v.verify(t.Context(), key); why != revokedKey {
				t.Errorf("one who came after the change: %v", why)
			}
		})
	}
	if _, why := v.verify(t.Context(), key); why != nil {
		t.Errorf("one who came before the change: %v", why)
	}
	if _, why := v.verify(t.Context(), key); why != revokedKey {
		t.Errorf("the next: %v", why)
	}
}

// Keys that nobody made push no real key out of memory, and take a bounded part of it.
func TestFloodOfUnknownKeys(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	_, key := createKey(t, r.pool, nil)
	if w := r.ask(key); w.Code != 200 {
		t.Fatal(w.Code)
	}
	unknown := &verdict{refusal: invalidKey, fresh: time.Now().Add(time.Hour)}
	for i := range 3 * maxVerdicts {
		r.verifier.unknown.Set(hash{byte(i), byte(i >> 8), byte(i >> 16)}, unknown)
	}
	r.verifier.unknown.CleanUp()
	if n := r.verifier.unknown.EstimatedSize(); n > maxVerdicts {
		t.Errorf("%d unknown keys are remembered", n)
	}
	if r.verifier.known.EstimatedSize() != 1 {
		t.Error("the real key was pushed out")
	}
	r.pool.Close() // so it is from memory
	if w := r.ask(key); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
}

// While the database is away, keys that are known stay good for a while, and those that are not are no error of
// their callers'.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	r := newReplica(t, newPool(t, dbtest.New(t)))
	id, key := createKey(t, r.pool, func(k *db.Key) { k.RequestsPerMinute = new(int64(3)) })
	_, never := createKey(t, r.pool, nil)
	if w := r.ask(key); w.Code != 200 {
		t.Fatal(w.Code)
	}
	eventually(t, "settled", func() bool {
		r.ledger.mu.Lock()
		defer r.ledger.mu.Unlock()
		return r.ledger.accounts[id].settling == db.Use{} && r.ledger.accounts[id].unsettled == db.Use{}
	})
	r.pool.Close()
	r.Hear(nil) // as the listener says when it has lost the database
	began := time.Now()
	if w := r.ask(key); w.Code != 200 {
		t.Errorf("a known key: %d %s", w.Code, w.Body)
	}
	if d := time.Since(began); d > 2*hurry {
		t.Errorf("it took %v", d)
	}
	if w := r.ask(never); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("a key that is not known: %d %s", w.Code, w.Body)
	}
	if w := r.get(serverKey, "/v1/runs"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("runs: %d %s", w.Code, w.Body)
	}
	if w := r.ask(serverKey); w.Code != 200 {
		t.Errorf("the server's key: %d %s", w.Code, w.Body)
	}
	r.ask(key)
	if w := r.ask(key); w.Code != http.StatusTooManyRequests {
		t.Errorf("the limit does not hold by itself: %d", w.Code)
	}
	r.verifier.mu.Lock()
	for h, v := range r.verifier.known.All() {
		old := *v
		old.fresh, old.kept = time.Time{}, time.Now().Add(-time.Second)
		r.verifier.known.Set(h, &old)
	}
	r.verifier.mu.Unlock()
	if w := r.ask(key); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a verdict stands in for ever: %d", w.Code)
	}
}

func FuzzKeyID(f *testing.F) {
	_, key, _ := NewKey()
	f.Add(key)
	f.Add("fw__")
	f.Add("")
	f.Fuzz(func(t *testing.T, key string) {
		id, ok := keyID(key)
		if ok && (CheckID(id) != nil || !strings.HasPrefix(key, "fw_"+id+"_") || len(key) != keyLength) {
			t.Errorf("%q has the id %q", key, id)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	r := newReplica(b, newPool(b, dbtest.New(b)))
	_, key := createKey(b, r.pool, func(k *db.Key) {
		k.RequestsPerMinute = new(int64(1 << 40))
	})
	if _, why := r.verifier.verify(b.Context(), key); why != nil {
		b.Fatal(why)
	}
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, why := r.verifier.verify(b.Context(), key); why != nil {
					b.Error(why)
				}
			}
		})
	})
	b.Run("take", func(b *testing.B) {
		b.ReportAllocs()
		id, _ := keyID(key)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, why := r.ledger.take(id, time.Now()); why != nil {
					b.Error(why)
				}
			}
		})
	})
}
