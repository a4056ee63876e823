package realtime

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/centrifugal/fdelta"
)

// maxDelta is the largest data that a delta is computed from or for, in bytes: a shard waits meanwhile.
const maxDelta = 1 << 20

// delta returns the fossil delta from base to data, or nil if the data itself is better. As text it is valid
// UTF-8, as what travels in a JSON string must be.
func delta(base, data []byte, text bool) []byte {
	if len(base) > maxDelta || len(data) > maxDelta || text && !utf8.Valid(base) {
		return nil
	}
	d := fdelta.Create(base, data)
	if text && !utf8.Valid(d) {
		d = wholeCharacters(d, data)
	}
	if d == nil || len(d) >= len(data) {
		return nil
	}
	return d
}

// A part of a delta's target that is copied from its base.
type copied struct{ from, start, end int }

// wholeCharacters makes of a delta to target one whose insertions begin and end with whole characters, or
// returns nil. The delta compares bytes, so it cuts "д" from "ж" after the byte that both begin with; here
// what is copied gives up such halves to what is inserted.
func wholeCharacters(delta, target []byte) []byte {
	size, rest, _ := bytes.Cut(delta, []byte{'\n'})
	var copies []copied
	at, inserted := 0, false // inserted: what comes before `at` in the target is not copied
	for {
		n, after := fossilInt(rest)
		if len(after) == 0 {
			return nil
		}
		rest = after[1:]
		switch after[0] {
		case ':':
			if n > len(rest) {
				return nil
			}
			if last := len(copies) - 1; last >= 0 && copies[last].end == at {
				copies[last].end = characterBefore(target, at)
			}
			at, inserted, rest = at+n, true, rest[n:]
		case '@':
			from, after := fossilInt(rest)
			if len(after) == 0 || at+n > len(target) {
				return nil
			}
			start := at
			if inserted {
				start = characterAfter(target, at)
			}
			copies = append(copies, copied{from + start - at, start, at + n})
			at, inserted, rest = at+n, false, after[1:]
		default: // the checksum, which is the target's
			d := rebuild(size, copies, target)
			d = append(appendFossilInt(d, n), ';')
			if !utf8.Valid(d) {
				return nil // a copy between two cuts was shorter than a character
			}
			return d
		}
	}
}

// rebuild writes a delta, but for its checksum: copies, and insertions of what lies between them.
func rebuild(size []byte, copies []copied, target []byte) []byte {
	d := append(bytes.Clone(size), '\n')
	at := 0
	insert := func(end int) {
		if end > at {
			d = append(append(appendFossilInt(d, end-at), ':'), target[at:end]...)
			at = end
		}
	}
	for _, c := range copies {
		if c.start < c.end {
			insert(c.start)
			d = append(appendFossilInt(d, c.end-c.start), '@')
			d = append(appendFossilInt(d, c.from), ',')
			at = c.end
		}
	}
	insert(len(target))
	return d
}

func characterBefore(b []byte, i int) int {
	for i > 0 && i < len(b) && !utf8.RuneStart(b[i]) {
		i--
	}
	return i
}

func characterAfter(b []byte, i int) int {
	for i < len(b) && !utf8.RuneStart(b[i]) {
		i++
	}
	return i
}

// fossilDigits are how a fossil delta writes numbers, to the base of 64.
const fossilDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"

func fossilInt(b []byte) (n int, rest []byte) {
	for len(b) > 0 {
		d := strings.IndexByte(fossilDigits, b[0])
		if d < 0 {
			break
		}
		n, b = n<<6|d, b[1:]
	}
	return n, b
}

func appendFossilInt(b []byte, n int) []byte {
	if n >= 64 {
		b = appendFossilInt(b, n>>6)
	}
	return append(b, fossilDigits[n&63])
}
