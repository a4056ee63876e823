package cache

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/valkey-io/valkey-go"
)

// tokenLife is how long a tag's token lives in Valkey; values that outlive theirs
// are misses, once.
const tokenLife = 3 * MaxLife

// stored is a value as Valkey has it; its tags are not yet compared with their tokens.
type stored struct {
	record
	tokens []tagged
	marks  marks // from before it was read
}

// reads are the look-ups under way, one a name.
type reads struct {
	mu   sync.Mutex
	open map[string]*read
}

type read struct {
	marks marks
	*exchange[stored]
}

// get reads a value from Valkey and keeps a copy. Who asks for the same name at the
// same time shares the answer, unless the name was changed in between.
func (r *remote) get(ctx context.Context, name string, meanwhile func()) (record, bool) {
	if r.pending.has(name) {
		return record{}, false
	}
	x, err := r.read(ctx, name)
	if err != nil {
		return record{}, false
	}
	meanwhile()
	s, err := x.wait(ctx, r)
	if err != nil {
		return record{}, false
	}
	return r.accept(ctx, name, s)
}

func (r *remote) read(ctx context.Context, name string) (*read, error) {
	r.reads.mu.Lock()
	defer r.reads.mu.Unlock()
	if x := r.reads.open[name]; x != nil && r.local.valid(name, x.marks) {
		return x, nil
	}
	x := &read{marks: r.local.marks(name, nil)}
	var err error
	x.exchange, err = begin(ctx, r, func(ctx context.Context, v valkey.Client) (stored, error) {
		defer r.reads.end(name, x)
		data, err := v.Do(ctx, v.B().Get().Key(name).Build()).AsBytes()
		if err != nil {
			return stored{}, err
		}
		return r.decode(data, x.marks)
	})
	if err != nil {
		return nil, err
	}
	r.reads.open[name] = x
	return x, nil
}

func (rs *reads) end(name string, x *read) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.open[name] == x {
		delete(rs.open, name)
	}
}

func (r *remote) decode(data []byte, m marks) (stored, error) {
	rec, tokens, err := r.codec.decode(data)
	if err != nil {
		r.counters.corrupt.Add(1)
	}
	return stored{record: rec, tokens: tokens, marks: m}, err
}

// accept checks what was read and keeps a copy.
func (r *remote) accept(ctx context.Context, name string, s stored) (record, bool) {
	now := time.Now()
	if now.After(s.end()) {
		return record{}, false
	}
	m := r.local.withTags(s.marks, s.tags)
	if !r.current(ctx, s.tokens) {
		return record{}, false
	}
	until := s.end()
	if life := now.Add(untrackedLife); !r.tracking.Load() && life.Before(until) {
		until = life
	}
	r.local.put(name, &copied{record: s.record, marks: m, until: until})
	return s.record, true
}

// current tells whether none of the tags was purged since a value got its tokens.
func (r *remote) current(ctx context.Context, tags []tagged) bool {
	if len(tags) == 0 {
		return true
	}
	names := make([]string, len(tags))
	for i, t := range tags {
		names[i] = t.name
	}
	tokens, err := r.tokens(ctx, names, false)
	if err != nil {
		return false
	}
	for i, t := range tags {
		if tokens[i].token != t.token || r.pending.has(t.name) {
			return false
		}
	}
	return true
}

// tokens returns the tokens of tags: "" for a tag that has none, unless make gives
// it a new one. They are the tags' generations: a purge deletes the token, and the
// next one is another, so what was stored under the old one is never right again,
// also when the fill that stores it began before the purge and ends after it. A
// token that Valkey evicts costs misses, never a stale value.
func (r *remote) tokens(ctx context.Context, names []string, create bool) ([]tagged, error) {
	if len(names) == 0 {
		return nil, nil
	}
	found := make([]tagged, len(names))
	marked := make([]marks, len(names))
	var missing []int
	now := time.Now()
	for i, name := range names {
		found[i].name = name
		if c, ok := r.local.get(name, now); ok {
			found[i].token = string(c.value)
			continue
		}
		marked[i] = r.local.marks(name, nil)
		missing = append(missing, i)
	}
	if len(missing) == 0 {
		return found, nil
	}
	read, err := call(ctx, r, func(ctx context.Context, v valkey.Client) ([]string, error) {
		return readTokens(ctx, v, names, missing, create)
	})
	if err != nil {
		return nil, err
	}
	life := tokenCopyLife
	if !r.tracking.Load() {
		life = untrackedLife
	}
	for k, i := range missing {
		found[i].token = read[k]
		if len(read[k]) == tokenBytes {
			r.local.put(names[i], &copied{record: record{value: []byte(read[k])}, marks: marked[i], until: now.Add(life)})
		}
	}
	return found, nil
}

// readTokens reads the tokens of the names with these indices, in one round trip.
func readTokens(ctx context.Context, v valkey.Client, names []string, missing []int, create bool) ([]string, error) {
	var commands []valkey.Completed
	for _, i := range missing {
		if create {
			commands = append(commands, v.B().Set().Key(names[i]).Value(rand.Text()[:tokenBytes]).Nx().Px(tokenLife).Build())
		}
		commands = append(commands, v.B().Get().Key(names[i]).Build())
	}
	replies := v.DoMulti(ctx, commands...)
	step := len(commands) / len(missing)
	read := make([]string, len(missing))
	for k := range missing {
		token, err := replies[(k+1)*step-1].ToString()
		if err != nil && !valkey.IsValkeyNil(err) {
			return nil, err
		}
		read[k] = token
	}
	return read, nil
}

// set stores a value. What could not be stored, and may have been there before, is
// deleted later, unless it is only a fill.
func (r *remote) set(ctx context.Context, name string, rec record, fill bool) {
	tags, err := r.tokens(ctx, rec.tags, true)
	if err == nil {
		data, saved := r.codec.encode(rec, tags)
		err = r.store(ctx, name, data, rec, fill)
		if err == nil {
			r.counters.saved.Add(int64(saved))
			r.counters.sets.Add(1)
		}
	}
	// Here or on the way there is nothing older left. Valkey's own notice of it
	// comes later, and would not for a copy that was read in between.
	r.local.drop(name)
	if err != nil && !fill {
		r.remember(name)
	}
}

func (r *remote) store(ctx context.Context, name string, data []byte, rec record, fill bool) error {
	_, err := call(ctx, r, func(ctx context.Context, v valkey.Client) (struct{}, error) {
		set := v.B().Set().Key(name).Value(valkey.BinaryString(data)).Px(rec.ttl + rec.stale).Build()
		if fill {
			return struct{}{}, v.Do(ctx, set).Error()
		}
		// Another's fill under way is older than this value: it loses its lease.
		for _, reply := range v.DoMulti(ctx, v.B().Del().Key(leaseName(name)).Build(), set) {
			if err := reply.Error(); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return err
}

// remove deletes names, now or as soon as Valkey answers again.
func (r *remote) remove(ctx context.Context, names []string) error {
	for _, name := range names {
		r.local.forget(name)
	}
	for first := 0; first < len(names); first += settleBatch {
		batch := names[first:min(first+settleBatch, len(names))]
		_, err := call(ctx, r, func(ctx context.Context, v valkey.Client) (struct{}, error) {
			for _, reply := range v.DoMulti(ctx, deletions(v, batch)...) {
				if err := reply.Error(); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, nil
		})
		// A copy may have been read after the first look and before the deletion, by a
		// connection that was told of nothing since.
		for _, name := range batch {
			r.local.forget(name)
		}
		if err != nil {
			r.remember(names[first:]...)
			return err
		}
	}
	return nil
}
