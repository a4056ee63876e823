package realtime

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// Bounds of what Gather brings.
const (
	gatherWait      = 300 * time.Millisecond // for replicas without a lease, of which nobody knows
	maxGathered     = 256 << 10              // bytes of one replica's answer
	maxGatheredFrom = 1000                   // replicas
	gatherPart      = 5000                   // bytes of an answer's part, which JSON makes a third longer
)

// gathered are the answers of a survey, by replica. The zero value is empty.
type gathered struct {
	parts map[string][]byte // not whole yet
	whole map[string][]byte
}

// add takes one part in. Parts of one answer arrive in order.
func (g *gathered) add(a *surveyAnswer) {
	if a.Gathered == nil || len(g.parts)+len(g.whole) >= maxGatheredFrom || len(g.parts[a.From])+len(a.Gathered) > maxGathered {
		return
	}
	if g.parts == nil {
		g.parts, g.whole = map[string][]byte{}, map[string][]byte{}
	}
	g.parts[a.From] = append(g.parts[a.From], a.Gathered...)
	if a.Last {
		g.whole[a.From] = g.parts[a.From]
		delete(g.parts, a.From)
	}
}

// OnGather sets what this replica answers when one gathers, at most maxGathered bytes.
func (n *Node) OnGather(answer func() []byte) { n.gather.Store(&answer) }

func (n *Node) gatherMine() []byte {
	answer := n.gather.Load()
	if answer == nil {
		return []byte{}
	}
	b := (*answer)()
	if len(b) > maxGathered {
		n.logger.Warn("the figures of this replica are too large to be gathered", "bytes", len(b))
		return []byte{}
	}
	return b
}

// Gather asks all replicas, also those without clients, and returns what each answered by its id, this one's
// among them. It takes a third of a second at least, since nobody has a list of those that have no clients.
func (n *Node) Gather(ctx context.Context) (map[string][]byte, error) {
	s, err := n.survey(ctx, question{What: askGather})
	if err != nil {
		return nil, err
	}
	n.surveys.mu.Lock() // an answer may be arriving
	defer n.surveys.mu.Unlock()
	all := maps.Clone(s.gathered.whole)
	if all == nil {
		all = map[string][]byte{}
	}
	return all, nil
}

// gatherAnswers waits a while for replicas that nobody knows, and then for those that are known.
func (n *Node) gatherAnswers(ctx context.Context, id string, s *survey) error {
	least, late := time.NewTimer(gatherWait), time.NewTimer(surveyTimeout)
	defer least.Stop()
	defer late.Stop()
	select {
	case <-least.C:
	case <-ctx.Done():
		return fmt.Errorf("wait for the replicas' answers: %w", ctx.Err())
	}
	select {
	case <-s.done:
	case <-late.C:
	case <-ctx.Done():
		return fmt.Errorf("wait for the replicas' answers: %w", ctx.Err())
	}
	n.surveys.mu.Lock()
	defer n.surveys.mu.Unlock()
	delete(n.surveys.open, id)
	for id, name := range s.awaited {
		n.logger.Warn("a replica did not answer in time, the result is without it", "replica_id", id, "replica_name", name)
	}
	return nil
}

func (a surveyAnswer) splitGathered() []surveyAnswer {
	var parts []surveyAnswer
	for rest := a.Gathered; ; {
		n := min(len(rest), gatherPart)
		parts = append(parts, surveyAnswer{ID: a.ID, From: a.From, Part: len(parts), Gathered: rest[:n]})
		if rest = rest[n:]; len(rest) == 0 {
			parts[len(parts)-1].Last = true
			return parts
		}
	}
}
