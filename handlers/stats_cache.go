package handlers

import (
	"cmp"
	"context"
	"slices"
	"time"

	"forgewire/cache"
	"forgewire/cache/llm"
)

const (
	cacheStatsWithin = 200 * time.Millisecond // for what Valkey says of itself, which is left out if it is late
	maxModelRows     = 50                     // the most used ones
)

// modelStats are what the cache of models' answers did since the replicas started.
type modelStats struct {
	Total llm.Stats   `json:"total"`
	Rows  []llm.Stats `json:"by_model_and_class"`
}

func (s *server) cacheStats() *cache.Stats {
	if s.cache == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cacheStatsWithin)
	defer cancel()
	stats := s.cache.Stats(ctx)
	return &stats
}

func (s *server) modelStats() *modelStats {
	if s.llm == nil {
		return nil
	}
	total, rows := s.llm.Stats()
	return newModelStats(total, rows)
}

func newModelStats(total llm.Stats, rows []llm.Stats) *modelStats {
	total.Model, total.Class = "all", "all"
	slices.SortStableFunc(rows, func(a, b llm.Stats) int { return cmp.Compare(b.Requests, a.Requests) })
	return &modelStats{Total: total, Rows: append([]llm.Stats{}, rows[:min(len(rows), maxModelRows)]...)}
}

// addCaches adds one replica's.
func (c *clusterStats) addCaches(one replicaStats) {
	if one.Cache != nil {
		if c.Cache == nil {
			c.Cache = &cache.Stats{}
		}
		c.Cache.Add(*one.Cache)
	}
	if one.Models == nil {
		return
	}
	if c.Models == nil {
		c.Models = &modelStats{}
	}
	for _, row := range one.Models.Rows {
		i := slices.IndexFunc(c.Models.Rows, func(r llm.Stats) bool { return r.Model == row.Model && r.Class == row.Class })
		if i < 0 {
			c.Models.Rows = append(c.Models.Rows, row)
			continue
		}
		c.Models.Rows[i].Add(row)
	}
	c.Models.Total.Add(one.Models.Total)
	c.Models = newModelStats(c.Models.Total, c.Models.Rows)
}
