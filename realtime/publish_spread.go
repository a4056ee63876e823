package realtime

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Partial says that some of several messages were not published, or that nobody knows: those of logs that cannot be
// reached. The others were.
type Partial struct {
	Errors []error // one for each message; nil for those that were published
}

func (p *Partial) Error() string { return errors.Join(p.Errors...).Error() }

// Unwrap returns what was wrong.
func (p *Partial) Unwrap() []error {
	return slices.DeleteFunc(slices.Clone(p.Errors), func(err error) bool { return err == nil })
}

// publishSpread publishes messages whose channels may be in several logs: in one transaction for each of them.
func (n *Node) publishSpread(ctx context.Context, messages []Message) ([]Message, error) {
	places, first, alone := make([]int, len(messages)), n.place(messages[0].Channel), true
	for i := range messages {
		places[i] = n.place(messages[i].Channel)
		alone = alone && places[i] == first
	}
	if alone {
		return n.strands[first].publish(ctx, messages)
	}
	failed := make([]error, len(n.strands))
	var g errgroup.Group
	for place, s := range n.strands {
		var share []Message
		for i := range messages {
			if places[i] == place {
				share = append(share, messages[i])
			}
		}
		if len(share) == 0 {
			continue
		}
		g.Go(func() error {
			var sent []Message
			if sent, failed[place] = s.publish(ctx, share); failed[place] != nil {
				return failed[place]
			}
			for i := range messages { // each goroutine's are its own
				if places[i] == place {
					messages[i], sent = sent[0], sent[1:]
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err == nil {
		return messages, nil
	}
	p := &Partial{Errors: make([]error, len(messages))}
	for i, place := range places {
		p.Errors[i] = failed[place]
	}
	return messages, p
}
