package admin

import (
	"bytes"
	"encoding/base64"
	"net/netip"
	"testing"
	"time"
)

func TestSessions(t *testing.T) {
	s, now := sessions{key: []byte("k")}, time.Now()
	n := s.new(now)
	value := s.sign(n)
	if got, err := s.parse(value, now); err != nil || got.user() != n.user() || !got.expires.Equal(n.expires) || !got.issued.Equal(n.issued) {
		t.Errorf("%+v, %v, want %+v", got, err, n)
	}
	if _, err := s.parse(value, n.expires.Add(-time.Second)); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	if s.sign(s.new(now)) == value {
		t.Error("two sessions are one")
	}
	for name, at := range map[string]time.Time{"at its end": n.expires, "later": now.Add(100 * time.Hour), "long before its beginning": now.Add(-time.Hour)} {
		if _, err := s.parse(value, at); err == nil {
			t.Errorf("%s it is good", name)
		}
	}
	if _, err := (sessions{key: []byte("another")}).parse(value, now); err == nil {
		t.Error("another key's is good")
	}
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		forged := bytes.Clone(raw)
		forged[i] ^= 1
		if _, err := s.parse(base64.RawURLEncoding.EncodeToString(forged), now); err == nil {
			t.Errorf("with byte %d changed it is good", i)
		}
	}
}

func FuzzSession(f *testing.F) {
	s, now := sessions{key: []byte("k")}, time.Now()
	good := s.sign(s.new(now))
	f.Add(good)
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if _, err := s.parse(value, now); err == nil && value != good {
			t.Errorf("%q is a session", value)
		}
	})
}

func TestKey(t *testing.T) {
	key := func(password string, others ...string) string {
		k, err := Key(password, others...)
		if err != nil || len(k) != 32 {
			t.Fatalf("%x, %v", k, err)
		}
		return string(k)
	}
	a := key("the password", "api", "token")
	if a != key("the password", "api", "token") {
		t.Error("replicas would differ")
	}
	for _, b := range []string{key("the passwore", "api", "token"), key("the password", "apit", "oken"), key("the password", "api", "")} {
		if a == b {
			t.Error("another configuration has the same key")
		}
	}
}

func TestAttempts(t *testing.T) {
	a, now := newAttempts(), time.Now()
	from := func(i byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 32) }
	for range attemptsOfOne {
		if !a.allow(from(1), now) {
			t.Fatal("the first ones are refused")
		}
	}
	for range 100 { // which take nothing from the others
		if a.allow(from(1), now) {
			t.Fatal("an address has no limit")
		}
	}
	others := 0
	for i := range byte(100) {
		if a.allow(from(100+i), now) {
			others++
		}
	}
	if others != attemptsOfAll-attemptsOfOne {
		t.Errorf("%d of the others", others)
	}
	if a.allow(from(2), now) {
		t.Error("all together have no limit")
	}
	if now = now.Add(oneMoreOfOne); !a.allow(from(1), now) || a.allow(from(1), now) {
		t.Error("after a while it is not one more")
	}
}
