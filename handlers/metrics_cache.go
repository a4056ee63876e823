package handlers

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"forgewire/cache"
	"forgewire/cache/llm"
)

var (
	metricCacheAvailable = describe("cache_available", "0 while Valkey is away: every look-up is a miss.")
	metricCacheLookups   = describe("cache_lookups_total", "Look-ups, by where the value was found.", "result")
	metricCacheStale     = describe("cache_stale_total", "Values that were found and past their time.")
	metricCacheFills     = describe("cache_fills_total", "Values that were made anew.")
	metricCacheJoined    = describe("cache_joined_total", "Look-ups that waited for a value that somebody was making.")
	metricCacheSets      = describe("cache_sets_total", "Values that were stored.")
	metricCacheFailed    = describe("cache_failed_total", "Calls of Valkey that failed, or were not made as it is away or too busy.", "why")
	metricCacheCorrupt   = describe("cache_corrupt_total", "Values that were damaged, or not ours.")
	metricCacheBytes     = describe("cache_local_bytes", "Memory that copies in the process hold.")
	metricCacheEntries   = describe("cache_local_entries", "Copies in the process.")
	metricCachePending   = describe("cache_pending", "Deletes and purges that wait for Valkey.")

	metricModelRequests = describe("llm_requests_total", "Requests to models that ended, by what the cache had to do with them.", "cache")
	metricModelFailed   = describe("llm_failed_total", "Requests to models that got an error.")
	metricModelTokens   = describe("llm_tokens_saved_total", "Tokens of answers that no model was asked for.")
	metricModelPaid     = describe("llm_paid_total", "Money that answers cost, in the currency of the prices.")
	metricModelSaved    = describe("llm_saved_total", "Money that was not paid.")
	metricModelSeconds  = describe("llm_seconds_saved_total", "Time that nobody waited for a model.")
	metricModelAway     = describe("llm_upstreams_away", "Models of upstreams that are left alone for a while, as they fail.")
)

// cacheCollector has the figures of the cache and of the models' answers: of all models together, for callers choose
// the names of models. Each of the two is nil where there is none. Nobody is asked for them, so that a scrape wakes nobody.
type cacheCollector struct {
	cache  *cache.Cache
	models *llm.Service
}

// Describe sends nothing: the collector is registered once and not checked.
func (cacheCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the figures of now.
func (c cacheCollector) Collect(out chan<- prometheus.Metric) {
	m := metrics(out)
	if c.cache != nil {
		s := c.cache.Counted()
		m.gauge(metricCacheAvailable, oneIf(s.State != cache.StateUnavailable))
		for result, n := range map[string]int64{"local": s.LocalHits, "remote": s.RemoteHits, "miss": s.Misses} {
			m.counter(metricCacheLookups, float64(n), result)
		}
		for why, n := range map[string]int64{"error": s.Errors, "skipped": s.Skipped} {
			m.counter(metricCacheFailed, float64(n), why)
		}
		for d, n := range map[*prometheus.Desc]int64{metricCacheStale: s.StaleHits, metricCacheFills: s.Fills, metricCacheJoined: s.Joined,
			metricCacheSets: s.Sets, metricCacheCorrupt: s.Corrupt} {
			m.counter(d, float64(n))
		}
		for d, n := range map[*prometheus.Desc]int64{metricCacheBytes: s.LocalBytes, metricCacheEntries: s.LocalEntries, metricCachePending: s.Pending} {
			m.gauge(d, float64(n))
		}
	}
	if c.models == nil {
		return
	}
	s, _ := c.models.Stats()
	for outcome, n := range map[llm.Outcome]int64{llm.Hit: s.Hits, llm.Miss: s.Misses, llm.Collapsed: s.Collapsed, llm.Stale: s.Stale, llm.Bypass: s.Bypassed} {
		m.counter(metricModelRequests, float64(n), string(outcome))
	}
	m.counter(metricModelFailed, float64(s.Failed))
	m.counter(metricModelTokens, float64(s.TokensSaved))
	m.counter(metricModelPaid, float64(s.CostMicros)/1e6)
	m.counter(metricModelSaved, float64(s.SavedMicros)/1e6)
	// It is a sum in any order: without its last bits, which may be less than they were, or Prometheus takes the replica
	// for a new one.
	m.counter(metricModelSeconds, math.Round(s.SecondsAvoided*1e3)/1e3)
	m.gauge(metricModelAway, float64(c.models.Away()))
}
