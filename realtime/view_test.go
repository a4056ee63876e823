package realtime

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/centrifugal/centrifuge-go"
	"github.com/centrifugal/fdelta"
	"github.com/centrifugal/protocol"

	"forgewire/db/dbtest"
)

// document is a publication that changes a little each time, with characters of several bytes.
func document(i int) string {
	return fmt.Sprintf(`{"title":"Überraschung in Zürich 😀","lines":[%s"end"],"n":%d,"text":"%s"}`,
		strings.Repeat(`"the same line of text",`, 20), i, strings.Repeat("ÄÖ", i%5))
}

// The published Go client sees every publication whole, over both protocols, live and recovered, on two
// replicas, beside one that did not ask for deltas; and the bytes of a delta are few.
func TestDeltaWithRealClients(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	const namespaces = `{"namespaces":[{"name":"docs","delta":true}]}`
	replicas := []*Node{startReplica(t, url, namespaces), startReplica(t, url, namespaces)}
	fossil := centrifuge.SubscriptionConfig{Delta: centrifuge.DeltaTypeFossil, Recoverable: true}
	subs := []*subscriber{
		subscribe(t, replicas[0], false, "docs:1", fossil), subscribe(t, replicas[1], false, "docs:1", fossil),
		subscribe(t, replicas[0], true, "docs:1", fossil), subscribe(t, replicas[1], true, "docs:1", fossil),
		subscribe(t, replicas[1], false, "docs:1", centrifuge.SubscriptionConfig{}),
	}
	var want []string
	publish := func(n int) {
		for range n {
			want = append(want, document(len(want)))
			if _, err := replicas[len(want)%2].Publish(t.Context(), Message{Channel: "docs:1", Data: []byte(want[len(want)-1])}); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(20)
	for _, s := range subs {
		s.expect(t, want...)
		if err := s.client.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	publish(10)
	for _, s := range subs {
		s.connect(t)
		if !s.last().Recovered {
			t.Error("not recovered")
		}
	}
	publish(10)
	for _, s := range subs {
		s.expect(t, want...)
	}
}

// newBurst is what a notification with these messages on a channel brings.
func newBurst(offset uint64, datas ...string) *burst {
	b := &burst{channel: "c"}
	for i, d := range datas {
		b.messages = append(b.messages, &Message{Offset: offset + uint64(i), Channel: "c", Data: []byte(d)})
		b.last = offset + uint64(i)
	}
	return b
}

// replies decodes a WebSocket frame of JSON.
func replies(t testing.TB, b []byte) (all []*protocol.Reply) {
	t.Helper()
	if b == nil {
		return nil
	}
	_, payload, err := readFrame(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(payload), "\n") {
		r := &protocol.Reply{}
		if err := json.Unmarshal([]byte(line), r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// Whoever has the same gets the very same bytes, computed once; whoever has nothing gets the first message
// in full; and what a client makes of it is what was published.
func TestDeltaIsShared(t *testing.T) {
	t.Parallel()
	a, b, fresh := &view{}, &view{}, &view{}
	first, second := newBurst(1, document(1), document(2)), newBurst(3, document(3), document(4))
	f1, f2 := a.frame(first, wsJSON, 0), b.frame(first, wsJSON, 0)
	if &f1[0] != &f2[0] {
		t.Error("the same burst was encoded twice")
	}
	g1, g2, g3 := a.frame(second, wsJSON, 2), b.frame(second, wsJSON, 2), fresh.frame(second, wsJSON, 2)
	if &g1[0] != &g2[0] {
		t.Error("the same delta was encoded twice")
	}
	if &g1[0] == &g3[0] || len(second.viewed.frames) != 2 {
		t.Errorf("a subscriber without the previous message got a delta from it; %d frames", len(second.viewed.frames))
	}
	for _, c := range []struct {
		frames [][]byte
		deltas []bool
		first  int
	}{{[][]byte{f1, g1}, []bool{false, true, true, true}, 1}, {[][]byte{g3}, []bool{false, true}, 3}} {
		var base []byte
		i := 0
		for _, f := range c.frames {
			for _, r := range replies(t, f) {
				var data string
				if err := json.Unmarshal(r.Push.Pub.Data, &data); err != nil {
					t.Fatalf("not a JSON string: %s", r.Push.Pub.Data)
				}
				if r.Push.Pub.Delta != c.deltas[i] {
					t.Errorf("message %d: delta %v", i, r.Push.Pub.Delta)
				}
				if r.Push.Pub.Delta {
					if len(data) > 100 {
						t.Errorf("a delta of %d bytes", len(data))
					}
					data = string(must(fdelta.Apply(base, []byte(data))))
				}
				if base = []byte(data); data != document(c.first+i) {
					t.Fatalf("message %d is %s", i, data)
				}
				i++
			}
		}
	}
}

// Random documents, cut anywhere: whatever a delta does, the client has what was published, and nearly always
// a delta is used, also where characters take several bytes.
func TestDeltaFidelity(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	letters := []rune(`abc"\<>&éüЖд😀😁€`)
	text := []rune(strings.Repeat("Ждать и 😀 догонять. ", 20))
	deltas := [2]int{}
	const rounds = 3000
	for i := range rounds {
		base := must(json.Marshal(string(text)))
		for range 1 + rng.IntN(3) {
			at := rng.IntN(len(text))
			switch rng.IntN(3) {
			case 0:
				text[at] = letters[rng.IntN(len(letters))]
			case 1:
				text = slices.Insert(text, at, letters[rng.IntN(len(letters))])
			default:
				text = slices.Delete(text, at, at+1)
			}
		}
		data := must(json.Marshal(string(text)))
		for k, f := range []format{wsJSON, wsProtobuf} {
			p := (&Message{Data: data}).patch(&Message{Data: base}, f)
			got := string(p.Data)
			if f == wsJSON {
				if err := json.Unmarshal(p.Data, &got); err != nil {
					t.Fatal(err)
				}
			}
			if p.Delta {
				deltas[k]++
				got = string(must(fdelta.Apply(base, []byte(got))))
			}
			if got != string(data) {
				t.Fatalf("%d, format %d: %s became %s", i, f, data, got)
			}
		}
	}
	if deltas[0] < rounds*99/100 || deltas[1] < rounds {
		t.Errorf("%d deltas as JSON and %d as Protobuf, of %d", deltas[0], deltas[1], rounds)
	}
}

// However strange the two texts, what is made of a delta is valid and leads to the same.
func FuzzWholeCharacters(f *testing.F) {
	f.Add("Ждать и догонять, ждать и догонять", "Ждатьи и догонять, жжать и дагонять")
	f.Add("", "ü")
	f.Add(strings.Repeat("ü", 100), strings.Repeat("ö", 100))
	f.Fuzz(func(t *testing.T, base, data string) {
		if !utf8.ValidString(base) || !utf8.ValidString(data) {
			return
		}
		d := wholeCharacters(fdelta.Create([]byte(base), []byte(data)), []byte(data))
		if d == nil {
			return
		}
		if got, err := fdelta.Apply([]byte(base), d); err != nil || string(got) != data || !utf8.Valid(d) {
			t.Fatalf("%q to %q became %q: %q, %v", base, data, d, got, err)
		}
	})
}

// Deltas are only where the namespace has them; another kind of delta is refused.
func TestDeltaIsNegotiated(t *testing.T) {
	t.Parallel()
	on, off := defaultOptions, defaultOptions
	on.Delta = true
	for _, c := range []struct {
		req  *protocol.SubscribeRequest
		o    ChannelOptions
		want bool
	}{
		{&protocol.SubscribeRequest{Delta: "fossil"}, on, true},
		{&protocol.SubscribeRequest{}, on, false},
		{&protocol.SubscribeRequest{Delta: "fossil"}, off, false},
	} {
		v, err := newView(c.req, c.o)
		if err != nil || v.isDelta() != c.want {
			t.Errorf("%v: %v, %v", c.req, v, err)
		}
	}
	if _, err := newView(&protocol.SubscribeRequest{Delta: "vcdiff"}, on); err == nil {
		t.Error("an unknown delta was accepted")
	}
}

// A cache channel's subscriber gets the last message at once, whole, and nothing twice when it comes back.
func TestCacheChannel(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	const namespaces = `{"namespaces":[{"name":"state","cache_channel":true,"delta":true},{"name":"short","cache_channel":true,"history_ttl":"1ms"}]}`
	a := startReplica(t, url, namespaces)
	if s := subscribe(t, a, false, "state:empty", centrifuge.SubscriptionConfig{}); s.last().Recovered || !s.last().WasRecovering {
		t.Errorf("an empty one: %+v", s.last())
	}
	publish := func(n *Node, channel, data string) {
		if _, err := n.Publish(t.Context(), Message{Channel: channel, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	publish(a, "state:1", `{"n":1}`)
	publish(a, "state:1", `{"n":2}`)
	publish(a, "short:1", `1`)
	b := startReplica(t, url, namespaces) // its tail is empty: it asks the log
	var subs []*subscriber
	for _, n := range []*Node{a, b} {
		for _, cfg := range []centrifuge.SubscriptionConfig{{}, {Delta: centrifuge.DeltaTypeFossil}} {
			s := subscribe(t, n, false, "state:1", cfg)
			s.expect(t, `{"n":2}`)
			if !s.last().Recovered {
				t.Error("not recovered")
			}
			subs = append(subs, s)
		}
		pause(t.Context(), 2*time.Millisecond)
		if s := subscribe(t, n, false, "short:1", centrifuge.SubscriptionConfig{}); s.last().Recovered {
			t.Error("an expired message was recovered")
		}
	}
	// Who comes back with the last message does not get it again; who missed some gets the last.
	for _, s := range subs {
		if err := s.client.Disconnect(); err != nil {
			t.Fatal(err)
		}
		s.connect(t)
		if !s.last().Recovered {
			t.Error("not recovered")
		}
		if err := s.client.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	publish(b, "state:1", `{"n":3}`)
	publish(b, "state:1", `{"n":4}`)
	last := must(b.History(t.Context(), "state:1", HistoryFilter{})).Position.Offset
	eventually(t, 10*time.Second, "both replicas have it", func() bool { return handedOn(a, last) && handedOn(b, last) })
	for _, s := range subs {
		s.connect(t)
		s.expect(t, `{"n":2}`, `{"n":4}`)
	}
	publish(a, "state:1", `{"n":5}`)
	for _, s := range subs {
		s.expect(t, `{"n":2}`, `{"n":4}`, `{"n":5}`)
	}
}

// What a filter of tags lets through, live and recovered.
func TestTagsFilter(t *testing.T) {
	t.Parallel()
	n := startReplica(t, dbtest.New(t), `{"namespaces":[{"name":"prices","allow_tags_filter":true}]}`)
	filter := centrifuge.SubscriptionConfig{Recoverable: true, TagsFilter: centrifuge.FilterAnd(
		centrifuge.FilterIn("ticker", "A", "B"), centrifuge.FilterGt("price", "9.5"))}
	subs := []*subscriber{subscribe(t, n, false, "prices:1", filter), subscribe(t, n, true, "prices:1", filter)}
	all := subscribe(t, n, false, "prices:1", centrifuge.SubscriptionConfig{})
	publish := func(data, ticker, price string) {
		m := Message{Channel: "prices:1", Data: []byte(data), Meta: Meta{Tags: map[string]string{"ticker": ticker, "price": price}}}
		if _, err := n.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	publish("1", "A", "10")
	publish("2", "A", "9")
	publish("3", "C", "10")
	publish("4", "B", "9.51")
	all.expect(t, "1", "2", "3", "4")
	for _, s := range subs {
		s.expect(t, "1", "4")
		if err := s.client.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	publish("5", "C", "10")
	publish("6", "B", "10")
	for _, s := range subs {
		s.connect(t)
		s.expect(t, "1", "4", "6")
	}
	refused := subscribe(t, n, false, "room:1", filter)
	if refused.failure() == nil {
		t.Error("a filter where none is allowed")
	}
}

func TestFilterMatches(t *testing.T) {
	t.Parallel()
	leaf := func(cmp, val string, vals ...string) *protocol.FilterNode {
		return &protocol.FilterNode{Key: "k", Cmp: cmp, Val: val, Vals: vals}
	}
	node := func(op string, nodes ...*protocol.FilterNode) *protocol.FilterNode {
		return &protocol.FilterNode{Op: op, Nodes: nodes}
	}
	for _, c := range []struct {
		node    *protocol.FilterNode
		matches string // of those values
	}{
		{leaf("eq", "abc"), "abc"}, {leaf("neq", "abc"), "none b 10 9.0 1e9"}, {leaf("sw", "a"), "abc"}, {leaf("ew", "c"), "abc"},
		{leaf("ct", "b"), "abc b"}, {leaf("in", "", "b", "10"), "b 10"}, {leaf("nin", "", "b"), "none abc 10 9.0 1e9"},
		{leaf("ex", ""), "abc b 10 9.0 1e9"}, {leaf("nex", ""), "none"}, {leaf("gt", "9"), "10"}, {leaf("gte", "9"), "10 9.0"},
		{leaf("lt", "10.0"), "9.0"}, {leaf("lte", "10"), "10 9.0"}, {leaf("lt", "x"), ""},
		{node("not", leaf("eq", "b")), "none abc 10 9.0 1e9"}, {node("or", leaf("eq", "b"), leaf("gt", "9")), "b 10"},
		{node("and", leaf("ct", "b"), leaf("sw", "a")), "abc"},
	} {
		f, err := newFilter(c.node)
		if err != nil {
			t.Errorf("%v: %v", c.node, err)
			continue
		}
		var got []string
		for _, v := range []string{"none", "abc", "b", "10", "9.0", "1e9"} {
			tags := map[string]string{"k": v}
			if v == "none" {
				tags = nil
			}
			if f.match(tags) {
				got = append(got, v)
			}
		}
		if strings.Join(got, " ") != c.matches {
			t.Errorf("%v matches %v, want %s", c.node, got, c.matches)
		}
	}
	deep := leaf("eq", "a")
	for range maxFilterDepth {
		deep = node("not", deep)
	}
	wide := node("or")
	for range maxFilterNodes {
		wide.Nodes = append(wide.Nodes, leaf("eq", "a"))
	}
	for _, bad := range []*protocol.FilterNode{deep, wide, node("xor", leaf("eq", "a")), node("and"), node("not", leaf("eq", "a"), leaf("eq", "b")),
		leaf("is", "a"), leaf("eq", ""), leaf("in", "a"), {Cmp: "eq", Val: "a"}, leaf("eq", strings.Repeat("x", maxFilterBytes))} {
		if _, err := newFilter(bad); err == nil {
			t.Errorf("%.100v was accepted", bad)
		}
	}
}

// discard is a transport that takes everything.
type discard struct{}

func (discard) send([]byte, int) error      { return nil }
func (discard) disconnect(*Disconnect) bool { return true }
func (discard) Close() error                { return nil }

// What a shard does for 10,000 subscribers of a channel, without the sockets.
func BenchmarkShard(b *testing.B) {
	for _, kind := range []string{"plain", "delta", "filter"} {
		b.Run(kind, func(b *testing.B) {
			h := newHub(1)
			s := h.shards[0]
			f := must(newFilter(&protocol.FilterNode{Key: "k", Cmp: "nex"}))
			for range 10_000 {
				c := newClient(&Node{hub: h}, discard{}, wsJSON)
				c.shard = s
				v := map[string]*view{"delta": {}, "filter": {filter: f}}[kind]
				s.subscribe(&subscription{client: c, channel: "c", live: true, view: v})
			}
			size := 0
			b.ReportAllocs()
			for i := range b.N {
				one := newBurst(uint64(i+1), document(i))
				s.handle(event{bursts: []*burst{one}, at: uint64(i + 1)})
				if kind == "plain" {
					size += len(one.frame(wsJSON))
				}
				for _, encoded := range one.viewed.frames {
					size += len(encoded)
				}
			}
			b.ReportMetric(float64(size)/float64(b.N), "bytes/frame")
		})
	}
}

// Joins and leaves are no publications: no delta is made of them, and no filter keeps them back.
func TestViewsHearWhoComes(t *testing.T) {
	t.Parallel()
	_, url := startNode(t, dbtest.New(t), `{"without_namespace":{"presence":true,"join_leave":true,"delta":true,"allow_tags_filter":true}}`, nil)
	for name, view := range map[string]string{
		"deltas": `"delta":"fossil"`, "a filter": `"tf":{"key":"k","cmp":"eq","val":"v"}`,
	} {
		w := joined(t, url, hs(joe()))
		if r := w.ask(fmt.Sprintf(`"subscribe":{"channel":%q,"join_leave":true,%s}`, name, view)); r.Error != nil {
			t.Fatalf("%s: %+v", name, r.Error)
		}
		other := joined(t, url, hs(joe()))
		if r := other.ask(subscribeTo(name, "")); r.Error != nil {
			t.Fatalf("%s: %+v", name, r.Error)
		}
		joins := 0
		for joins < 2 { // its own, and the other's
			r, code := w.read()
			if code != 0 || r.Push == nil || r.Push.Join == nil {
				t.Fatalf("%s: %+v, %d", name, r.Push, code)
			}
			joins++
		}
		_ = other.ws.CloseNow()
		if r, code := w.read(); code != 0 || r.Push == nil || r.Push.Leave == nil {
			t.Fatalf("%s: %+v, %d", name, r.Push, code)
		}
	}
}
