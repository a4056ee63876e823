package e2e

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// fault is one thing that can go wrong. begin makes it so and returns how to end it.
type fault struct {
	kind  string
	group string // of what breaks: two at once are of two groups
	alone bool   // or it never comes with another one
	loses bool   // commits that were acknowledged, on purpose
	from  time.Duration
	to    time.Duration // it lasts between from and to
	needs func(w *chaos) bool
	begin func(w *chaos, r *rand.Rand) (end func())
}

// Groups of faults.
const (
	ofReplicas = "replicas"
	ofPostgres = "postgres"
	ofNetwork  = "network"
	ofClients  = "clients"
	ofValkey   = "valkey"
	ofModel    = "model"
)

func chaosFaults() (all []fault) {
	all = append(all, replicaFaults()...)
	all = append(all, networkFaults()...)
	all = append(all, postgresFaults()...)
	all = append(all, diskAndClockFaults()...)
	all = append(all, failovers()...)
	all = append(all, valkeyFaults()...)
	return append(all, modelFaults()...)
}

func withValkeyOnly(w *chaos) bool    { return w.valkey != nil }
func withAccidentsOnly(w *chaos) bool { return w.accidents != nil }

func nothing() {}

const (
	short    = time.Second
	middling = 3 * time.Second
	lengthy  = 9 * time.Second
)

func replicaFaults() []fault {
	one := func(does func(w *chaos, x *replica) func()) func(w *chaos, r *rand.Rand) func() {
		return func(w *chaos, r *rand.Rand) func() { return does(w, pick(r, w.replicas)) }
	}
	return []fault{
		{kind: "replica killed", group: ofReplicas, to: middling, begin: one(func(_ *chaos, x *replica) func() { x.kill(); return x.start })},
		{kind: "replica stopped in order", group: ofReplicas, to: middling, begin: one(func(_ *chaos, x *replica) func() { x.term(); return x.start })},
		{kind: "replica hung (SIGSTOP), its clocks jump", group: ofReplicas, from: short, to: lengthy, begin: one(func(_ *chaos, x *replica) func() { x.pause(); return x.resume })},
		{kind: "replica stutters", group: ofReplicas, begin: one(func(w *chaos, x *replica) func() {
			for range 20 { // as on a machine that is promised to too many
				x.pause()
				during(w.t, 90*time.Millisecond)
				x.resume()
				during(w.t, 10*time.Millisecond)
			}
			return nothing
		})},
		{kind: "replica killed while it starts", group: ofReplicas, begin: one(func(w *chaos, x *replica) func() {
			for i := range 4 {
				x.kill()
				x.start()
				during(w.t, time.Duration(i+1)*60*time.Millisecond)
			}
			return nothing
		})},
		{kind: "replica short of memory", group: ofReplicas, begin: func(w *chaos, r *rand.Rand) func() { return w.crowdMemory(r.IntN(chaosReplicas)) }},
		{kind: "all replicas killed", group: ofReplicas, to: short, begin: func(w *chaos, _ *rand.Rand) func() {
			for _, x := range w.replicas {
				x.signal(syscallKill)
			}
			for _, x := range w.replicas {
				_ = x.wait(10 * time.Second) // killed is how it ends
			}
			return func() {
				for _, x := range w.replicas {
					x.start()
				}
			}
		}},
		{kind: "all replicas hung", group: ofReplicas, from: short, to: lengthy, begin: func(w *chaos, _ *rand.Rand) func() {
			for _, x := range w.replicas {
				x.pause()
			}
			return func() {
				for _, x := range w.replicas {
					x.resume()
				}
			}
		}},
		{kind: "rolling restart", group: ofReplicas, begin: func(w *chaos, _ *rand.Rand) func() {
			for _, x := range w.replicas {
				x.term()
				x.start()
				x.waitReady(recoverWithin)
			}
			return nothing
		}},
		{kind: "clients away and back", group: ofClients, to: middling, begin: func(w *chaos, _ *rand.Rand) func() {
			subs := w.subscribers()
			for i, s := range subs {
				if i%2 == 0 {
					s.away()
				} else {
					s.cut()
				}
			}
			return func() {
				for i, s := range subs {
					if i%2 == 0 {
						_ = s.client.Connect() // it tries again by itself
					}
				}
			}
		}},
	}
}

// bigChannel is where what is large goes.
const bigChannel = "big:1"

// crowdMemory publishes much that is large over one replica while clients subscribe that do not read.
func (w *chaos) crowdMemory(at int) (end func()) {
	var deafs []*rawClient
	for range 20 {
		c := dialRaw(w.t, w.replicas[at])
		deafs = append(deafs, c)
		c.connect("")
		c.must(`{"id":2,"subscribe":{"channel":"` + bigChannel + `"}}`)
	}
	pad := make([]byte, 200<<10)
	for i := range pad {
		pad[i] = 'x'
	}
	for range 30 {
		id := w.book.id("big")
		p, err := w.replicas[at].publish(w.t.Context(), bigChannel, map[string]string{"id": id, "pad": string(pad)})
		w.book.note(bigChannel, id, p.Offset, err, 0)
	}
	return func() {
		for _, c := range deafs {
			c.close()
		}
	}
}

// networkFaults are all that can become of a network, for each of them.
func networkFaults() (all []fault) {
	networks := []struct {
		name, group string
		which       func(w *chaos, r *rand.Rand) []*proxy
		kinds       []string
	}{
		{"a replica's way to PostgreSQL", ofNetwork, func(w *chaos, r *rand.Rand) []*proxy { return []*proxy{pick(r, w.toDB)} },
			[]string{"cut", "blackholed", "slow", "narrow", "flapping", "cut in mid-answer"}},
		{"a listener's way to PostgreSQL", ofNetwork, func(w *chaos, _ *rand.Rand) []*proxy { return []*proxy{w.toDBOfListener} },
			[]string{"cut", "blackholed", "slow"}},
		{"all ways to PostgreSQL", ofNetwork, func(w *chaos, _ *rand.Rand) []*proxy { return w.toServers() }, []string{"cut", "blackholed", "slow"}},
		{"the SQL publishers' way", ofNetwork, func(w *chaos, _ *rand.Rand) []*proxy { return []*proxy{w.fromTheApp} }, []string{"cut", "cut in mid-answer"}},
		{"the clients' way to a replica", ofClients, func(w *chaos, r *rand.Rand) []*proxy { return []*proxy{pick(r, w.fromClients)} },
			[]string{"cut", "blackholed", "slow", "flapping", "cut in mid-answer"}},
		{"a replica's way to Valkey", ofValkey, func(w *chaos, r *rand.Rand) []*proxy { return []*proxy{pick(r, w.toValkey)} },
			[]string{"cut", "blackholed", "slow"}},
		{"the way to the model", ofModel, func(w *chaos, _ *rand.Rand) []*proxy { return []*proxy{w.toModel} }, []string{"cut", "blackholed", "slow"}},
	}
	for _, n := range networks {
		for _, kind := range n.kinds {
			f := fault{kind: n.name + ": " + kind, group: n.group, from: short, to: middling, begin: func(w *chaos, r *rand.Rand) func() {
				ways := n.which(w, r)
				for _, p := range ways {
					w.disturb(p, kind, r)
				}
				return func() {
					for _, p := range ways {
						w.restore(p, kind)
					}
				}
			}}
			if kind == "blackholed" {
				f.to = lengthy
			}
			if n.group == ofValkey {
				f.needs = withValkeyOnly
			}
			all = append(all, f)
		}
	}
	return all
}

// disturb does to a network what a kind of fault says.
func (w *chaos) disturb(p *proxy, kind string, r *rand.Rand) {
	switch kind {
	case "cut":
		p.cut()
	case "blackholed":
		p.swallow()
	case "slow":
		p.delay(time.Duration(50+r.IntN(350)) * time.Millisecond)
	case "narrow":
		p.add(`{"name":"narrow down","type":"bandwidth","stream":"downstream","attributes":{"rate":20}}`)
		p.add(`{"name":"narrow up","type":"bandwidth","stream":"upstream","attributes":{"rate":20}}`)
	case "flapping":
		for range 8 {
			p.cut()
			during(w.t, 100*time.Millisecond)
			p.mend()
			during(w.t, 150*time.Millisecond)
		}
	case "cut in mid-answer":
		p.add(fmt.Sprintf(`{"name":"limit","type":"limit_data","stream":"downstream","attributes":{"bytes":%d}}`, 300+r.IntN(3000)))
	}
}

func (w *chaos) restore(p *proxy, kind string) {
	switch kind {
	case "cut":
		p.mend()
	case "flapping":
	default:
		p.heal()
	}
}
