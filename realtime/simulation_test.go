package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// The simulation runs the follower, the hub and real clients over a model of the log whose notifications
// get lost, doubled and late, whose reads fail, and which now and then loses its newest messages, as in a
// failover. It is deterministic: a seed tells the whole story. SIMULATION_SEEDS sets how many.

// simLog is the model: what Postgres would hold.
type simLog struct {
	mu           sync.Mutex
	rng          *rand.Rand
	messages     []Message
	ever         map[uint64]string // all that were ever given out, lost ones too
	incarnations []incarnation
	retired      uint64
	head         uint64
	failReads    bool
	asked        atomic.Int64 // recoveries that the tail left to the log
}

type incarnation struct{ base, last uint64 } // last 0: the current one

var errSim = errors.New("the simulation cut the connection")

func newSimLog(rng *rand.Rand) *simLog {
	return &simLog{rng: rng, ever: map[uint64]string{}, incarnations: []incarnation{{base: 1}}}
}

// append writes a batch and returns its notification.
func (l *simLog) append(channels int) *notification {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := &notification{prev: l.head, first: l.head + 1, count: uint64(1 + l.rng.IntN(4))}
	if cur := &l.incarnations[len(l.incarnations)-1]; cur.last != 0 {
		n.prev = l.last()
		n.first = l.head + 1000 + uint64(l.rng.IntN(1000))
		l.incarnations = append(l.incarnations, incarnation{base: n.first})
	} else if l.rng.IntN(20) == 0 {
		n.prev += 3 // a hole: an append that was rolled back, or a partition left early
		n.first += 3
	}
	for i := range n.count {
		channel := "c" + strconv.Itoa(l.rng.IntN(channels))
		if channel == "c0" && l.rng.IntN(30) > 0 {
			channel = "c1" // c0 is quiet: its subscribers' positions grow old
		}
		m := Message{Offset: n.first + i, Channel: channel, Data: fmt.Appendf(nil, "%d", n.first+i)}
		l.messages = append(l.messages, m)
		l.ever[m.Offset] = m.Channel
		if l.rng.IntN(10) > 0 {
			n.messages = append(n.messages, m)
		}
	}
	if uint64(len(n.messages)) != n.count {
		n.messages = nil // by reference
	}
	l.head = n.last()
	return n
}

func (l *simLog) last() uint64 {
	if len(l.messages) == 0 {
		return l.retired
	}
	return l.messages[len(l.messages)-1].Offset
}

// loseTail takes the newest messages back, as a failover to a lagging standby does.
func (l *simLog) loseTail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.messages) <= 5 || l.incarnations[len(l.incarnations)-1].last != 0 {
		return
	}
	l.messages = l.messages[:len(l.messages)-1-l.rng.IntN(4)]
	// An incarnation begins in the transaction of its first message, so it is lost with it.
	for len(l.incarnations) > 1 && l.incarnations[len(l.incarnations)-1].base > l.last() {
		l.incarnations = l.incarnations[:len(l.incarnations)-1]
	}
	l.incarnations[len(l.incarnations)-1].last = l.last()
}

func (l *simLog) retireSome() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.messages) / 2; n > 0 {
		l.retired = l.messages[n-1].Offset
		l.messages = slices.Clone(l.messages[n:])
	}
}

func (l *simLog) judge(at uint64) (s logState) {
	s = logState{epoch: "sim", retired: l.retired, last: l.last(), survived: l.retired}
	for _, i := range l.incarnations {
		if at+1 >= i.base && (i.last == 0 || at <= i.last) {
			s.valid = at <= s.last
		}
	}
	for _, m := range l.messages {
		if m.Offset <= at {
			s.survived = m.Offset
		}
	}
	return s
}

func (l *simLog) state(_ context.Context, at uint64) (logState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failReads {
		return logState{}, errSim
	}
	return l.judge(at), nil
}

func (l *simLog) read(_ context.Context, after, before uint64) (m []Message, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failReads {
		return nil, errSim
	}
	for _, x := range l.messages {
		if x.Offset > after && x.Offset < before && len(m) < 3 {
			m = append(m, x)
		}
	}
	return m, nil
}

// recover is what Log.recover promises.
func (l *simLog) recover(_ context.Context, channel string, since Position, upto uint64, _ kept) (m []*Message, err error) {
	l.asked.Add(1)
	pause(context.Background(), time.Duration(rand.IntN(3))*time.Millisecond) // the bubble's clock: others run meanwhile
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.messages {
		if x.Channel == channel && x.Offset > since.Offset && x.Offset <= upto {
			m = append(m, &x)
		}
	}
	if s := l.judge(since.Offset); since.Epoch != s.epoch || since.Offset < s.retired || !s.valid {
		return nil, ErrUnrecoverable
	}
	return m, nil
}

func (l *simLog) latest(context.Context, string, uint64, kept) (*Message, error) { return nil, errSim }

// simClient is a subscriber as the official client is one: it keeps its position, resubscribes when told to,
// and remembers what it was told.
type simClient struct {
	channel string
	server  bool // its token makes the subscription, and it connects again when told to
	mu      sync.Mutex
	seen    []uint64 // since the last time it was told that something is missing
	offset  uint64
	epoch   string
	fresh   bool          // the next subscribe does not recover
	closed  bool          // a close frame came
	again   chan struct{} // capacity 1: the server told it to subscribe again
	asked   int           // how often it recovered
	err     error
}

// run connects once and follows until the connection is cut.
func (s *simClient) run(n *Node, cut <-chan time.Time) {
	client, server := net.Pipe()
	c := newClient(n, newConn(server), wsJSON)
	c.connected = !s.server
	c.shard.add(c)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		<-cut
		_ = client.Close()
	})
	wg.Go(func() { s.commands(c, ended) })
	buf, tmp := make([]byte, 0, 4096), make([]byte, 4096)
	for {
		k, err := client.Read(tmp)
		if err != nil {
			break
		}
		if buf = s.frames(append(buf, tmp[:k]...), c); s.closed {
			s.closed = false
			break
		}
	}
	close(ended)
	_ = server.Close()
	wg.Wait()
	c.shard.remove(c)
	select { // a wish to subscribe again ends with its connection
	case <-s.again:
	default:
	}
}

// commands plays the reader: subscribe now, and again whenever told to, until the connection ends.
func (s *simClient) commands(c *client, ended <-chan struct{}) {
	for {
		s.mu.Lock()
		sub := fmt.Sprintf(`{"channel":%q,"recover":%t,"offset":%d,"epoch":%q}`, s.channel, !s.fresh, s.offset, s.epoch)
		s.mu.Unlock()
		cmd := fmt.Sprintf(`{"id":1,"subscribe":%s}`, sub)
		if s.server {
			cmd = fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subs":{%q:%s}}}`, hs(joe("channels", []string{s.channel})), s.channel, sub)
		}
		d := c.handleFrame(context.Background(), websocket.MessageText, []byte(cmd))
		if s.server {
			if d != nil {
				c.disconnect(d)
			}
			<-ended
			return
		}
		if d != nil {
			s.fail(fmt.Errorf("disconnected: %s", d.Reason))
			return
		}
		select {
		case <-s.again:
			pause(context.Background(), time.Millisecond)
		case <-ended:
			return
		}
	}
}

func (s *simClient) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// frames handles the whole frames in b and returns the rest.
func (s *simClient) frames(b []byte, c *client) []byte {
	for len(b) >= 2 {
		n, h := int(b[1]), 2
		switch {
		case n == 126 && len(b) >= 4:
			n, h = int(b[2])<<8|int(b[3]), 4
		case n >= 126:
			return b
		}
		if len(b) < h+n {
			return b
		}
		s.closed = s.closed || b[0] == opClose
		if b[0] == opText {
			for line := range bytes.SplitSeq(b[h:h+n], []byte("\n")) {
				s.reply(line, c)
			}
		}
		b = b[h+n:]
	}
	return b
}

func (s *simClient) reply(line []byte, c *client) {
	type subscribed struct {
		Epoch        string
		Offset       uint64
		Recovered    bool
		Publications []struct{ Offset uint64 }
	}
	var r struct {
		Subscribe *subscribed
		Connect   *struct{ Subs map[string]*subscribed }
		Error     *struct{ Code int }
		Push      *struct {
			Channel     string
			Pub         *struct{ Offset uint64 }
			Unsubscribe *struct{ Code int }
		}
	}
	if err := json.Unmarshal(line, &r); err != nil {
		s.fail(err)
	}
	if r.Connect != nil {
		r.Subscribe = r.Connect.Subs[s.channel]
	}
	if bytes.Equal(line, pong) {
		c.ponged.Store(true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Subscribe != nil:
		if r.Subscribe.Recovered {
			s.asked++
		} else {
			s.seen, s.fresh = nil, false
		}
		if len(r.Subscribe.Publications) == 0 || !r.Subscribe.Recovered {
			s.offset = r.Subscribe.Offset
		}
		s.epoch = r.Subscribe.Epoch
		for _, p := range r.Subscribe.Publications {
			s.take(p.Offset)
		}
		if !r.Subscribe.Recovered {
			s.seen = append(s.seen, s.offset) // where its history begins
		}
	case r.Push != nil && r.Push.Pub != nil:
		s.take(r.Push.Pub.Offset)
	case r.Error != nil, r.Push != nil && r.Push.Unsubscribe != nil:
		select {
		case s.again <- struct{}{}:
		default:
		}
	}
}

func (s *simClient) take(offset uint64) {
	if offset <= s.offset && s.err == nil {
		s.err = fmt.Errorf("%d came after %d", offset, s.offset)
	}
	s.offset = offset
	s.seen = append(s.seen, offset)
}

func TestSimulation(t *testing.T) {
	seeds := uint64(40)
	if v, err := strconv.ParseUint(os.Getenv("SIMULATION_SEEDS"), 10, 32); err == nil {
		seeds = v
	}
	var recovered, asked int
	for seed := range seeds {
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, a := simulate(t, seed)
				recovered, asked = recovered+r, asked+a
			})
		})
		if !ok {
			return
		}
	}
	t.Logf("%d recoveries, %d questions to the log", recovered, asked)
	if asked == 0 || recovered-asked < recovered/10 {
		t.Error("the simulation must recover both through the tail and through the log")
	}
}

// simReplica is what a replica has of the system that is simulated.
type simReplica struct {
	node      *Node
	follower  *follower
	connected bool
	late      []*notification
}

// simulate returns how many recoveries succeeded, and how many questions the log was asked.
func simulate(t *testing.T, seed uint64) (recovered, asked int) {
	const channels = 3
	rng := rand.New(rand.NewPCG(seed, 1))
	log := newSimLog(rng)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	replicas := make([]*simReplica, 2)
	for i := range replicas {
		n := &Node{hub: newHub(1), logger: slog.New(slog.DiscardHandler), strands: []*strand{{past: log}}, cfg: Config{Namespaces: NewNamespaces()},
			verifier: testVerifier(TokenConfig{Secret: testSecret})}
		n.strands[0].in = n.hub.in[0]
		n.hub.in[0].tail.limit = []int{1, 4, 30, maxTailMessages}[rng.IntN(4)]
		replicas[i] = &simReplica{node: n, follower: &follower{log: log, out: n.hub.in[0]}, connected: true}
		go n.hub.run(ctx) //nolint:errcheck // ends with the bubble
		if err := replicas[i].follower.resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()

	clients := make([]*simClient, 9)
	for i := range clients {
		clients[i] = &simClient{channel: "c" + strconv.Itoa(i%channels), server: i >= 6, fresh: true, again: make(chan struct{}, 1)}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, s := range clients {
		wg.Go(func() { s.live(replicas, rand.New(rand.NewPCG(seed, uint64(i+2))), stop) })
	}
	simFaults(t, rng, log, replicas, channels)

	// The end: everything is read, everybody comes back once more.
	log.failReads = false
	for _, r := range replicas {
		if err := r.follower.resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	pause(context.Background(), 200*time.Millisecond)
	close(stop)
	wg.Wait()
	for i, s := range clients {
		if err := log.check(s); err != nil {
			t.Errorf("seed %d, client %d: %v", seed, i, err)
		}
		recovered += s.asked
	}
	cancel()
	synctest.Wait()
	return recovered, int(log.asked.Load())
}

// live connects to some replica, stays a while, is cut and comes back, until stop; then once more, to catch up.
func (s *simClient) live(replicas []*simReplica, rng *rand.Rand, stop chan struct{}) {
	for {
		n := replicas[rng.IntN(len(replicas))].node
		s.run(n, time.After(time.Duration(5+rng.IntN(60))*time.Millisecond))
		select {
		case <-time.After(time.Duration(rng.IntN(40)) * time.Millisecond):
		case <-stop:
			s.run(n, time.After(100*time.Millisecond))
			return
		}
	}
}

// simFaults publishes, and does everything to the notifications that a network and a server can, to each
// replica on its own.
func simFaults(t *testing.T, rng *rand.Rand, log *simLog, replicas []*simReplica, channels int) {
	ctx := t.Context()
	for range 300 {
		pause(context.Background(), time.Duration(rng.IntN(3))*time.Millisecond)
		switch rng.IntN(30) {
		case 0:
			log.loseTail()
		case 1:
			replicas[rng.IntN(len(replicas))].connected = false
		case 2:
			if rng.IntN(5) == 0 {
				log.retireSome()
			}
		case 3:
			log.failReads = !log.failReads
		}
		for _, r := range replicas {
			if !r.connected && rng.IntN(3) == 0 {
				r.connected = r.follower.resume(ctx) == nil
			}
		}
		n := log.append(channels)
		for _, r := range replicas {
			r.hear(ctx, rng, n)
		}
	}
}

// hear brings a notification to a replica, or loses, doubles or delays it.
func (r *simReplica) hear(ctx context.Context, rng *rand.Rand, n *notification) {
	tell := func(n *notification) {
		own := *n // each replica parses its own
		own.messages = slices.Clone(n.messages)
		if r.connected && r.follower.notified(ctx, &own) != nil {
			r.connected = false
		}
	}
	switch rng.IntN(12) {
	case 0: // lost
	case 1: // twice
		tell(n)
		tell(n)
	case 2: // late
		r.late = append(r.late, n)
	default:
		tell(n)
	}
	if len(r.late) > 0 && rng.IntN(4) == 0 {
		tell(r.late[0])
		r.late = r.late[1:]
	}
}

// check compares what a client saw since it was last told that something is missing with the log.
func (l *simLog) check(s *simClient) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if len(s.seen) == 0 {
		return errors.New("never subscribed")
	}
	from, seen := s.seen[0], s.seen[1:]
	var want []uint64
	for _, m := range l.messages {
		if m.Channel == s.channel && m.Offset > from {
			want = append(want, m.Offset)
		}
	}
	if from < l.retired { // what was retired since cannot be compared any more
		seen = slices.DeleteFunc(slices.Clone(seen), func(o uint64) bool { return o <= l.retired })
	}
	if !slices.Equal(seen, want) {
		return fmt.Errorf("on %s from %d: saw %v, the log has %v (retired %d, incarnations %v)", s.channel, from, seen, want, l.retired, l.incarnations)
	}
	return nil
}
