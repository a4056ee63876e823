package llm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// keyVersion changes when the same request would get another key, or a recording another form.
const keyVersion = "1"

// unkeyed are the fields of a request that cannot change the answer, only how it travels, what it costs or whom it
// is booked to. Every other field, also one that nobody knows yet, is part of the key.
var unkeyed = map[string]bool{
	"stream":                 true, // one recording, every rendering
	"stream_options":         true,
	"user":                   true,
	"safety_identifier":      true,
	"metadata":               true,
	"prompt_cache_key":       true,
	"prompt_cache_options":   true,
	"prompt_cache_retention": true,
	"service_tier":           true,
}

// A key names a recording: the same for all requests that may be given the same answer, and for no other.
type key [sha256.Size]byte

func (k key) String() string { return hex.EncodeToString(k[:]) }

// keyOf hashes whose entries are used, what is asked and of whom. Each part is behind its length, so that no two
// lists of parts have the same text.
func keyOf(scope, route string, e endpoint, body node) key {
	h := sha256.New()
	canonical := body.appendCanonical(make([]byte, 0, len(body.raw)), func(name string) bool { return unkeyed[name] })
	for _, part := range [][]byte{[]byte(keyVersion), []byte(scope), []byte(route), []byte(e), canonical} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	return key(h.Sum(nil))
}
