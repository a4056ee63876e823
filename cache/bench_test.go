package cache

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What a look-up costs, beside one that asks the server each time and keeps nothing:
// the usual client. The value is an answer of a model, 4 KiB of text.
func BenchmarkGet(b *testing.B) {
	url := sharedURL(b)
	c, naive := connected(b, url), admin(b, url)
	value := strings.Repeat("the quick brown fox jumps over a lazy dog; ", 100)
	put(b, c, "bench", value, SetOptions{Tags: []string{"bench"}})
	name, ctx := valueName("bench"), context.Background()
	tell(b, naive, "SET", "naive", value)
	b.Run("local", func(b *testing.B) {
		mustBeLocal(b, c, "bench", value)
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := c.Get(ctx, "bench"); !ok {
				b.Fatal("miss")
			}
		}
	})
	b.Run("remote", func(b *testing.B) {
		b.ReportAllocs()
		misses := 0
		for b.Loop() {
			c.local.copies.Invalidate(name)
			if _, ok := c.Get(ctx, "bench"); !ok {
				misses++
			}
		}
		if misses > b.N/100 {
			b.Errorf("%d misses of %d", misses, b.N)
		}
	})
	b.Run("naive", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			data, err := naive.Do(ctx, naive.B().Get().Key("naive").Build()).AsBytes()
			if err != nil || len(data) != len(value) {
				b.Fatal(err)
			}
		}
	})
	b.Run("away", func(b *testing.B) {
		away := start(b, Config{URL: "redis://127.0.0.1:1"})
		for b.Loop() {
			away.Get(ctx, "bench")
		}
	})
}

func BenchmarkSet(b *testing.B) {
	url := sharedURL(b)
	value := bytes.Repeat([]byte("the quick brown fox jumps over a lazy dog; "), 100)
	for name, cfg := range map[string]Config{"valkey": {URL: url}, "local": {}} {
		b.Run(name, func(b *testing.B) {
			c := start(b, cfg)
			eventually(b, func() bool { return c.State() != StateUnavailable }, "not connected")
			n := 0
			for b.Loop() {
				n++
				c.Set(context.Background(), fmt.Sprint("bench", n%1000), value, SetOptions{TTL: time.Hour})
			}
		})
	}
}

func BenchmarkCodec(b *testing.B) {
	c := testCodec(b)
	rec, tags := example(b, bytes.Repeat([]byte("the quick brown fox jumps over a lazy dog; "), 100))
	data, _ := c.encode(rec, tags)
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			c.encode(rec, tags)
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := c.decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
