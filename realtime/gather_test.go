package realtime

import (
	"bytes"
	"testing"

	"forgewire/db/dbtest"
)

// Everybody answers, also replicas without clients, and large answers arrive whole.
func TestGather(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	var all []*Node
	want := [][]byte{[]byte("small"), bytes.Repeat([]byte("large"), 10_000), bytes.Repeat([]byte("x"), maxGathered+1)}
	for i := range want {
		all = append(all, newTestReplica(t, url, nil, func(n *Node) { n.OnGather(func() []byte { return want[i] }) }).node)
	}
	for i, n := range all[:2] {
		got := must(n.Gather(t.Context()))
		if len(got) != 2 || !bytes.Equal(got[all[0].id], want[0]) || !bytes.Equal(got[all[1].id], want[1]) {
			t.Errorf("replica %d: %d answers, of %d and %d bytes", i, len(got), len(got[all[0].id]), len(got[all[1].id]))
		}
	}
}

func TestGatheredIsBounded(t *testing.T) {
	var g gathered
	for i := range maxGatheredFrom + 10 {
		g.add(&surveyAnswer{From: string(rune(i)), Gathered: []byte("x"), Last: true})
	}
	if len(g.whole) != maxGatheredFrom {
		t.Errorf("%d", len(g.whole))
	}
	g = gathered{}
	for range 2*maxGathered/gatherPart + 1 {
		g.add(&surveyAnswer{From: "a", Gathered: make([]byte, gatherPart)})
	}
	if len(g.parts["a"]) > maxGathered {
		t.Errorf("%d bytes", len(g.parts["a"]))
	}
}
