package resources_test

import (
	"testing"

	"forgewire/db"
)

// Every replica knows how many evaluations there are to do, from the looks into the queue that it takes anyhow.
func TestEvaluationsAreCounted(t *testing.T) {
	t.Parallel()
	s := newStack(t, "")
	all := func(what string, ok func(db.Load) bool) {
		for _, r := range s.replicas {
			eventually(t, what, func() bool {
				l, known := r.node.Queue().Load()
				return known && ok(l)
			})
		}
	}
	none := func(l db.Load) bool { return l == db.Load{} }
	all("there is none", none)
	prompt, dataset := ready(t, s, 3)
	ids := []string{evaluate(t, s, prompt, dataset, "down", `{"type":"exact"}`), evaluate(t, s, prompt, dataset, "down", `{"type":"exact"}`)}
	all("two wait for their model", func(l db.Load) bool { return l.Waiting == 2 && l.Running == 0 && l.Oldest > 0 })
	for _, id := range ids {
		s.replicas[0].expect(t, 200, "", s.acme, "POST", "/v1/evaluations/"+id+"/cancel", "")
	}
	all("they are over", none)
	s.replicas[1].stop()
	if l, known := s.replicas[1].node.Queue().Load(); known {
		t.Errorf("a replica that does not look knows %+v", l)
	}
}
