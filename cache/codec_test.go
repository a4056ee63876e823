package cache

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

func testCodec(t testing.TB) *codec {
	t.Helper()
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func example(t testing.TB, value []byte) (record, []tagged) {
	t.Helper()
	rec, ok := newRecord(value, time.Hour, time.Minute, []string{"user:7", "model"})
	if !ok {
		t.Fatal("not stored")
	}
	return rec, []tagged{{rec.tags[0], strings.Repeat("a", tokenBytes)}, {rec.tags[1], strings.Repeat("b", tokenBytes)}}
}

func TestCodec(t *testing.T) {
	t.Parallel()
	c := testCodec(t)
	for _, value := range [][]byte{{}, []byte("short"), bytes.Repeat([]byte("prompt "), 10_000), []byte(strings.Repeat("x", compressOver))} {
		rec, tags := example(t, value)
		data, saved := c.encode(rec, tags)
		if packed := len(value) > compressOver; packed != (data[3] == formZstd) || packed != (saved > 0) {
			t.Errorf("%d bytes: form %d, saved %d", len(value), data[3], saved)
		}
		got, gotTags, err := c.decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.value, value) || !got.stored.Equal(rec.stored) || got.ttl != rec.ttl || got.stale != rec.stale ||
			len(gotTags) != 2 || gotTags[0] != tags[0] || gotTags[1] != tags[1] {
			t.Errorf("%+v became %+v", rec, got)
		}
		// Every bit counts, and so does every byte that is missing.
		for i := range min(len(data), 200) {
			damaged := bytes.Clone(data)
			damaged[i] ^= 1 << (i % 8)
			if _, _, err := c.decode(damaged); err == nil {
				t.Errorf("byte %d may be damaged", i)
			}
			if _, _, err := c.decode(data[:i]); err == nil {
				t.Errorf("%d bytes are enough", i)
			}
		}
	}
}

// A value that claims to be small must not unpack to more, whatever its checksum.
func TestDecompressionIsBounded(t *testing.T) {
	t.Parallel()
	c := testCodec(t)
	rec, _ := example(t, make([]byte, MaxValueBytes))
	data, _ := c.encode(rec, nil)
	for _, claim := range []uint32{10, MaxValueBytes - 1, MaxValueBytes + 1, 1<<32 - 1} {
		binary.BigEndian.PutUint32(data[36:], claim)
		binary.BigEndian.PutUint64(data[4:], xxhash.Sum64(data[headEnd:]))
		if _, _, err := c.decode(data); err == nil {
			t.Errorf("%d bytes unpacked as %d", MaxValueBytes, claim)
		}
	}
}

func FuzzDecode(f *testing.F) {
	c := testCodec(f)
	for _, value := range [][]byte{nil, bytes.Repeat([]byte("ab"), 2000)} {
		rec, tags := example(f, value)
		data, _ := c.encode(rec, tags)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= headEnd { // else nothing but the checksum would be tried
			binary.BigEndian.PutUint64(data[4:], xxhash.Sum64(data[headEnd:]))
		}
		rec, tags, err := c.decode(data)
		if err != nil {
			return
		}
		if len(rec.value) > MaxValueBytes || rec.ttl < 0 || rec.ttl > MaxLife {
			t.Errorf("out of bounds: %d bytes, %s", len(rec.value), rec.ttl)
		}
		again, _ := c.encode(rec, tags)
		if back, _, err := c.decode(again); err != nil || !bytes.Equal(back.value, rec.value) {
			t.Errorf("does not survive: %v", err)
		}
	})
}
