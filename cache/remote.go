package cache

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
)

const (
	dialTimeout = 250 * time.Millisecond
	// pingGap and pingTimeout decide how long a server that hangs goes unnoticed:
	// two gaps and one timeout. See doc.go, "How stale".
	pingGap     = 250 * time.Millisecond
	pingTimeout = 500 * time.Millisecond
	// pingGapUntracked is for servers without tracking, some of which are paid by
	// the command: there are no copies whose age depends on it.
	pingGapUntracked = 30 * time.Second

	probeMin = 50 * time.Millisecond
	probeMax = time.Second
	// steady is how long after the last probe a new outage is probed quickly again; one
	// that comes sooner goes on where the last one was, so a server that comes and goes
	// costs no more than one that is away.
	steady = 5 * time.Second

	bufferBytes = 64 << 10

	// untrackedLife is how long a local copy lives where the server does not tell of changes.
	untrackedLife = time.Second
	// tokenCopyLife makes each token be read at times, so that the server sees it is used.
	tokenCopyLife = time.Minute
)

// remote is Valkey: the connection, the guard around each call, and what is still
// to be done when it comes back.
type remote struct {
	// Fixed after construction.
	option   valkey.ClientOption
	log      *slog.Logger
	local    *local
	codec    *codec
	counters *counters
	owner    string        // names this process in leases
	calls    chan struct{} // one token for each call under way
	patience time.Duration
	wake     chan struct{} // run has something to do

	breaker  breaker
	client   atomic.Pointer[valkey.Client] // nil until the first connection; set by run alone
	tracking atomic.Bool
	pending  pending
	waiters  waiters
	reads    reads

	// Owned by run.
	lastError string
	untracked bool // it was logged that there is no tracking
}

func newRemote(cfg Config, l *local, counters *counters) (*remote, error) {
	option, err := options(cfg)
	if err != nil {
		return nil, err
	}
	codec, err := newCodec()
	if err != nil {
		return nil, err
	}
	r := &remote{
		option: option, log: cfg.Log, local: l, codec: codec, counters: counters, owner: rand.Text(),
		calls: make(chan struct{}, maxCalls), patience: cmp.Or(cfg.patience, patience), wake: make(chan struct{}, 1),
	}
	r.reads.open = make(map[string]*read)
	r.option.OnInvalidations = r.invalidated
	r.breaker.onOpen = func() {
		l.clear() // whether they are still true cannot be known
		r.poke()
	}
	return r, nil
}

// options are the library's, set so that a dead server is noticed within a second
// and none of its waits is longer than a dial.
func options(cfg Config) (valkey.ClientOption, error) {
	o, err := valkey.ParseURL(cfg.URL)
	if err != nil {
		return o, ErrURL // the cause may repeat the password
	}
	o.Dialer.Timeout, o.Dialer.KeepAlive = dialTimeout, pingGap
	o.ConnWriteTimeout = pingTimeout
	o.DisableRetry, o.AlwaysPipelining = true, true
	// Copies are ours, decoded, under one bound: every read is tracked (OPTOUT), and
	// the library's own cache, one for each connection, stays empty.
	o.ClientTrackingOptions = []string{"OPTOUT"}
	o.CacheSizeEachConn = bufferBytes
	o.ReadBufferEachConn, o.WriteBufferEachConn = bufferBytes, bufferBytes
	// All that we do is pipelined: two connections to a server keep a large value
	// from delaying all others. The pools for blocking commands stay empty.
	o.PipelineMultiplex = -1
	if cfg.MaxConnections >= 2 {
		o.PipelineMultiplex = 1
	}
	o.BlockingPoolSize = max(cfg.MaxConnections-2, 1)
	if o.ClientName == "" {
		o.ClientName = "forgewire"
	}
	sentinels(&o)
	o.ForceSingleClient = o.Sentinel.MasterSet == "" && len(o.InitAddress) == 1
	return o, nil
}

// sentinels are spoken to as the servers are, of which the URL says it: with the same user and TLS, and no longer waits.
func sentinels(o *valkey.ClientOption) {
	if o.Sentinel.MasterSet == "" {
		return
	}
	o.Sentinel.Username, o.Sentinel.Password, o.Sentinel.ClientName = o.Username, o.Password, o.ClientName
	o.Sentinel.Dialer = o.Dialer
	if o.TLSConfig != nil {
		o.Sentinel.TLSConfig = o.TLSConfig.Clone()
	}
}

func (r *remote) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run connects, watches over the connection, does what is pending, and at the end
// waits for the calls under way.
func (r *remote) run(ctx context.Context) error {
	defer r.shutdown()
	wait, next := probeMin, time.Time{} // until the next probe, and when that may be
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		if r.breaker.isOpen() {
			now := time.Now()
			if now.Before(next) { // woken for what must wait until it is back
				timer.Reset(next.Sub(now))
				continue
			}
			if now.Sub(next) > steady { // this outage has nothing to do with the last
				wait = probeMin
			}
			err := r.revive(ctx)
			next = time.Now().Add(wait)
			wait = min(2*wait, probeMax)
			if err != nil {
				r.away(ctx, err)
				timer.Reset(time.Until(next))
				continue
			}
		}
		if !r.settle(ctx) {
			timer.Reset(probeMax)
		}
	}
}

// revive connects where nothing is connected, and closes the breaker if the server
// answers in time.
func (r *remote) revive(ctx context.Context) error {
	if r.client.Load() == nil {
		if err := r.connect(ctx); err != nil {
			return err
		}
	}
	began := time.Now()
	err := r.ping(ctx, *r.client.Load())
	if errors.Is(err, valkey.ErrNoCache) { // another server than before
		r.disconnect()
	}
	if err != nil {
		return err
	}
	if took := time.Since(began); took > r.patience {
		return fmt.Errorf("the server took %s to answer", took.Round(time.Millisecond))
	}
	r.local.clear()
	r.breaker.close()
	r.lastError = ""
	r.log.InfoContext(ctx, "the cache is connected", "tracking", r.tracking.Load())
	return nil
}

func (r *remote) ping(ctx context.Context, client valkey.Client) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	err := client.Do(ctx, client.B().Ping().Build()).Error()
	if e, ok := valkey.IsValkeyErr(err); ok && strings.HasPrefix(e.Error(), "NOPERM") {
		return nil // it answers
	}
	return err
}

// connect makes the client: of a single server, a cluster or Sentinel's, with
// tracking if the server has it.
func (r *remote) connect(ctx context.Context) error {
	option, tracking := r.option, true
	client, err := dial(option)
	if errors.Is(err, valkey.ErrNoCache) {
		option.DisableCache, option.OnInvalidations, tracking = true, nil, false
		option.Dialer.KeepAlive = pingGapUntracked
		client, err = dial(option)
	}
	if err != nil {
		return err
	}
	if option.ForceSingleClient && r.clustered(ctx, client) {
		client.Close()
		option.ForceSingleClient = false
		if client, err = dial(option); err != nil {
			return err
		}
	}
	if !tracking && !r.untracked {
		r.untracked = true
		r.log.WarnContext(ctx, "the cache's server has no tracking (CLIENT TRACKING, RESP3): local copies live for a second only")
	}
	r.tracking.Store(tracking)
	r.client.Store(&client)
	return nil
}

func dial(option valkey.ClientOption) (valkey.Client, error) {
	client, err := valkey.NewClient(option)
	if err != nil && client != nil {
		client.Close()
	}
	return client, err
}

func (r *remote) clustered(ctx context.Context, client valkey.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	info, err := client.Do(ctx, client.B().ClusterInfo().Build()).ToString()
	return err == nil && strings.Contains(info, "cluster_state:")
}

func (r *remote) disconnect() {
	if client := r.client.Swap(nil); client != nil {
		(*client).Close()
	}
}

// away says once for each cause that the server does not answer.
func (r *remote) away(ctx context.Context, err error) {
	if text := err.Error(); text != r.lastError && ctx.Err() == nil {
		if r.lastError == "" {
			r.log.WarnContext(ctx, "the cache does not answer: every look-up is a miss", "error", text)
		}
		r.lastError = text
	}
}

// shutdown lets no further call begin and waits for those under way.
func (r *remote) shutdown() {
	r.breaker.closed.Store(false)
	for range maxCalls {
		r.calls <- struct{}{}
	}
	r.disconnect()
	r.local.clear()
}

// invalidated is called by the library's reader: it must not block. Nil is
// everything: a connection ended, or the server was flushed.
func (r *remote) invalidated(names []valkey.ValkeyMessage) {
	if names == nil {
		r.local.clear()
		r.waiters.wakeAll()
		return
	}
	for i := range names {
		name, err := names[i].ToString()
		if err != nil {
			r.local.clear()
			continue
		}
		r.local.forget(name)
		r.waiters.wake(name)
	}
}
