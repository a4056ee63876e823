package realtime

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxKeyLength bounds a message's key, in bytes.
const MaxKeyLength = 255

// How long keys are kept, at least, and how many are forgotten in one transaction.
const (
	keepKeys       = 5 * time.Minute
	forgetKeysStep = 5000
)

// checkIdempotencyKey says what is wrong with a key, or "".
func checkIdempotencyKey(key string) string {
	switch {
	case len(key) > MaxKeyLength:
		return fmt.Sprintf("the idempotency key is longer than %d bytes", MaxKeyLength)
	case !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return "the idempotency key is not text"
	}
	return ""
}

// keyOf is what a message must have in common with another to be the same.
type keyOf struct{ channel, key string }

// appendOnce is appendTo where messages have keys. One whose key was used on its channel before is not
// appended, and gets the offset of the first. Whether that is so is asked in the transaction that appends,
// under the log's lock; where it is, the transaction appends nothing and the next one goes on with the rest.
func appendOnce(ctx context.Context, q querier, generation int64, messages []Message) error {
	firsts := map[keyOf]int{}
	repeats := map[int]int{} // inside of messages: the index of each one's first
	var rest []int           // the indexes of what is to be appended
	for i := range messages {
		if m := &messages[i]; m.Key != "" {
			k := keyOf{m.Channel, m.Key}
			if first, again := firsts[k]; again {
				repeats[i] = first
				continue
			}
			firsts[k] = i
		}
		rest = append(rest, i)
	}
	for len(rest) > 0 {
		batch := make([]Message, len(rest))
		var keyed []int
		for i, r := range rest {
			if batch[i] = messages[r]; batch[i].Key != "" {
				keyed = append(keyed, i)
			}
		}
		known, err := appendBatch(ctx, q, generation, batch, keyed)
		if err != nil {
			return err
		}
		for i, r := range rest {
			messages[r].Offset = batch[i].Offset
		}
		if len(known) == 0 {
			break
		}
		for i, k := range known {
			rest = slices.Delete(rest, k-i, k-i+1)
		}
	}
	for i, first := range repeats {
		messages[i].Offset = messages[first].Offset
	}
	return nil
}

// queryOnce calls forgewire.append_once, and sets the offsets of those that it knows. These come sorted.
func queryOnce(ctx context.Context, q querier, generation int64, messages []Message, keyed []int, args []any) (base uint64, known []int, err error) {
	places, keys := make([]int32, len(keyed)), make([]string, len(keyed))
	index := make([]int, 1, len(messages)+1) // from places among what is stored, which count from 1
	for i := range messages {
		if !messages[i].ephemeral {
			index = append(index, i)
		}
	}
	for i, k := range keyed {
		place, _ := slices.BinarySearch(index[1:], k)
		places[i], keys[i] = int32(place+1), messages[k].Key
	}
	var first *int64
	var found []int32
	var numbers []int64
	sql := "SELECT base, known, numbers FROM forgewire.append_once($1, $2, $3, $4, $5, $6, $7, $8)"
	args = append(args, places, keys)
	if generation != 0 {
		sql = "SELECT base, known, numbers FROM forgewire.append_once_at($9, $1, $2, $3, $4, $5, $6, $7, $8)"
		args = append(args, generation)
	}
	err = q.QueryRow(ctx, sql, args...).Scan(&first, &found, &numbers)
	if err != nil {
		return 0, nil, err //nolint:wrapcheck // the caller says what was attempted
	}
	if first != nil {
		return uint64(*first), nil, nil
	}
	for i, place := range found {
		at := index[place]
		messages[at].Offset = uint64(numbers[i])
		known = append(known, at)
	}
	slices.Sort(known)
	return 0, known, nil
}

// forgetKeys removes keys that are older than keepKeys, a few at a time: nobody waits for it for long.
func (l *Log) forgetKeys(ctx context.Context) error {
	for {
		tag, err := l.pool.Exec(ctx, `DELETE FROM forgewire.published_keys WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM forgewire.published_keys WHERE published_at < clock_timestamp() - $1::interval ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED))`,
			keepKeys, forgetKeysStep)
		if err != nil {
			return fmt.Errorf("forget old idempotency keys: %w", err)
		}
		if tag.RowsAffected() < forgetKeysStep {
			return nil
		}
	}
}
