// Package cache keeps values that may be lost, for all of Forgewire: in Valkey, with
// copies in this process that Valkey invalidates, or, without Valkey, in this process
// alone, where replicas tell each other over a [Bus] what changed.
//
//	c, err := cache.New(cache.Config{URL: "redis://localhost:6379", Log: log})
//	go c.Run(ctx)
//	e, err := c.Fetch(ctx, "user:7", cache.FetchOptions{TTL: time.Hour, Tags: []string{"users"}},
//		func(ctx context.Context) ([]byte, error) { return load(ctx, 7) })
//	err = c.Purge(ctx, "users")
//
// A cache that is down, hung, slow, full or read-only is a miss: never an error and
// never a queue. No call waits for Valkey longer than 50 ms at a time (Fetch, which has
// a lease to look for, for two or three of those); after three failures in a row no
// call is made until a ping of ours was answered in time, so nobody waits at all.
//
// # Who owns what
//
// New starts nothing. Run owns the connection, the watch over frozen time and the
// notices; it returns when all fills and calls have ended. A fill runs in a goroutine
// that belongs to those who wait for it: it goes on when the first of them leaves, and
// its context ends with the last.
//
// # Copies, and how stale they may be
//
// All copies lie in one bounded set, decoded; the library's own set, one for each
// connection, is not used. Every read is tracked, and Valkey tells us when what we have
// read changes. A read that was under way when it changed makes no copy: see local.
//
// A write, delete or purge that was answered is seen at once by who made it. Another
// replica may serve what it had
//
//   - for one notification of Valkey's, usually under a millisecond, or of the Bus
//   - for 1 second if Valkey hangs or the network to it is cut: until its connection is
//     declared dead (two gaps of 250 ms between pings and 500 ms for the answer). When a
//     connection ends, all copies go
//   - for 1 second if the server has no tracking
//   - not at all after it was frozen (suspended, or without CPU for a second), or its
//     clock was set by more than a second
//   - for the value's TTL if a notice can never be sent: the process that deleted ended
//     before Valkey or the Bus was back, or deleted more while it was away than is
//     remembered: 16,384 names for Valkey, which is logged; more than 4,096 for the Bus
//     become one notice that empties everything
//
// # Deletes and purges
//
// A tag has a random token in Valkey, and each value those of its tags; a purge deletes
// the token, and values with it are misses from then on. It costs the same for any
// number of values, is right while a fill is under way, asks for one key at a time,
// which a cluster wants, and works on a full server. A token that Valkey evicts costs
// misses. Without Valkey the tokens are marks in memory: see local.
//
// # Fills
//
// A key is filled by one caller: in the process by the flight, across replicas by a
// lease in Valkey of 750 ms, renewed while the fill lasts, so that who dies is replaced
// within a second. A delete or a set takes the lease away, and what was filled under it
// is given to those who waited and not stored. Without Valkey, or while it is away, each
// process fills for itself.
//
// # What is bounded
//
//	local copies                Config.LocalBytes; the least useful go
//	a value                     8 MiB before compression; a larger one is not cached
//	calls of Valkey under way   512; above it a call is a miss
//	background refreshes        64, a minute each; above it the stale entry is served
//	a key or a tag              256 bytes; a longer one is hashed
//	tags of a value             32
//	a life                      30 days
//
// The package never stores an error, never logs a key or a value, and puts no secret
// into an error.
package cache
