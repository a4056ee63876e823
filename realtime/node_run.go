package realtime

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// Run works until ctx ends, and then stops in order: no new connection, every client told to reconnect, the
// publisher emptied, the listener gone. It returns when nothing is left running.
func (n *Node) Run(ctx context.Context) error {
	feed, stopFeed := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFeed()
	hub, stopHub := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHub()
	var shards, feeds errgroup.Group
	shards.Go(func() error { return n.hub.run(hub) })
	shards.Go(func() error { return n.watcher.run(hub) })
	feeds.Go(func() error { return n.strands[0].listener.run(feed) })
	for _, s := range n.strands[1:] {
		feeds.Go(func() error { return s.follow(feed) })
	}
	for _, s := range n.strands {
		feeds.Go(func() error { s.health.warm(feed); return nil })
		feeds.Go(func() error { return s.publisher.Run(feed) })
		feeds.Go(func() error { return n.maintain(feed, s) })
	}
	feeds.Go(func() error { return n.drainer.run(feed) })
	for _, f := range n.forwarders {
		feeds.Go(func() error { return f.run(feed) })
	}
	feeds.Go(func() error { return n.relay.run(feed) })
	feeds.Go(func() error { return n.presence.run(feed) })
	feeds.Go(func() error { return n.answerSurveys(feed) })
	feeds.Go(func() error { return n.returnMemory(feed) })
	feeds.Go(func() error { return n.webhooks.run(feed) })
	feeds.Go(func() error { return n.queue.Run(feed) })

	<-ctx.Done()
	n.Drain()
	stopFeed()
	err := feeds.Wait()
	stopHub()
	n.endLife()
	n.clients.Wait()
	n.workers.group.Wait()
	n.hooks.close()
	return errors.Join(err, shards.Wait())
}

// maintain keeps a log's partitions in order, but only while messages come: an idle replica runs no query.
func (n *Node) maintain(ctx context.Context, s *strand) error {
	ticker := time.NewTicker(maintainEvery)
	defer ticker.Stop()
	var seen uint64
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		at := s.in.position().Offset
		if at == seen || n.rest.resting() {
			continue
		}
		c, cancel := context.WithTimeout(ctx, maintainEvery/2)
		err := s.log.Maintain(c, n.cfg.RetentionAge, n.cfg.RetentionBytes)
		cancel()
		if err != nil {
			s.logger.Warn("the log's maintenance failed, trying again in a minute", "error", err)
			continue
		}
		seen = at
	}
}

// letGo gives up what is connected to the database besides the listener.
func (n *Node) letGo() {
	n.drainer.letGo()
	for _, f := range n.forwarders {
		f.letGo()
	}
	for _, s := range n.strands[1:] {
		s.pause()
	}
	for _, s := range n.strands {
		s.letGo()
	}
}

// Ready returns nil if a notification that was sent through the pool just now came back through the
// listener, else why this replica cannot serve. One that rests is ready: the first to come wakes it.
func (n *Node) Ready(ctx context.Context) error {
	select {
	case <-n.draining:
		return errors.New("shutting down")
	default:
	}
	if n.rest.resting() {
		return nil
	}
	n.rest.wait(ctx)
	return n.strands[0].health.check(ctx)
}

// LogsAway says what is wrong with those of several logs, but for the first, that cannot be reached, by their places.
func (n *Node) LogsAway(ctx context.Context) map[int]string {
	if n.rest.resting() {
		return nil
	}
	away := map[int]string{}
	for _, s := range n.strands[1:] {
		if err := s.health.check(ctx); err != nil {
			away[s.place] = err.Error()
		}
	}
	return away
}
