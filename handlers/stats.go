package handlers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"forgewire/cache"
	"forgewire/db"
	"forgewire/infra/memory"
	"forgewire/infra/monitor"
	"forgewire/realtime"
)

// replicaStats are the figures of one replica.
type replicaStats struct {
	ID       string              `json:"id"`
	Name     string              `json:"name"`
	Version  string              `json:"version"`
	HTTP     monitor.Stats       `json:"http"`
	Pools    map[string]db.Stats `json:"pools"`
	Memory   memory.Stats        `json:"memory"`
	Realtime realtime.Stats      `json:"realtime"`
	Cache    *cache.Stats        `json:"cache,omitempty"`  // none is configured
	Models   *modelStats         `json:"models,omitempty"` // no upstream is configured
}

// clusterStats are the figures of all replicas.
type clusterStats struct {
	HTTP     monitor.Stats       `json:"http"`
	Pools    map[string]db.Stats `json:"pools"`
	Latency  monitor.Summary     `json:"latency"` // of the last 1,000 requests of each route of each replica
	Cache    *cache.Stats        `json:"cache,omitempty"`
	Models   *modelStats         `json:"models,omitempty"`
	Replicas []replicaStats      `json:"replicas"` // without the HTTP routes and the models, which are summed up above
}

// statsResult is the answer of GET /v1/stats: one of the two.
type statsResult struct {
	Replica *replicaStats `json:"replica,omitempty"`
	Cluster *clusterStats `json:"cluster,omitempty"`
}

// v1Stats answers with the figures of the replica that is asked or, with scope=cluster, of all.
func (s *server) v1Stats(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	scope, recent := query.Get("scope"), query.Get("recent")
	switch scope {
	case "", "replica":
		mine := s.mine(s.monitor.Stats())
		if recent != "" {
			n, err := strconv.Atoi(recent)
			if err != nil || n < 1 || n > monitor.MaxRecent {
				s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With(fmt.Sprintf("recent is a number from 1 to %d", monitor.MaxRecent)))
				return
			}
			mine.HTTP.Recent = s.monitor.Recent(n)
		}
		s.write(w, r, http.StatusOK, statsResult{Replica: &mine})
	case "cluster":
		if recent != "" {
			s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With("recent is a replica's own: ask without scope=cluster"))
			return
		}
		all, err := s.gather(r.Context())
		if err != nil {
			e := s.errorFor(r.Context(), err)
			s.fail(w, r, statusOf(e), e)
			return
		}
		s.write(w, r, http.StatusOK, statsResult{Cluster: all})
	default:
		s.fail(w, r, http.StatusBadRequest, realtime.ErrBadRequest.With("scope is replica or cluster"))
	}
}

func (s *server) mine(requests monitor.Stats) replicaStats {
	info := s.node.Info()
	r := replicaStats{ID: info.ID, Name: info.Name, Version: s.version, HTTP: requests, Pools: map[string]db.Stats{}, Realtime: s.node.Stats()}
	for name, pool := range s.pools {
		r.Pools[name] = db.PoolStats(pool)
	}
	if s.memory != nil {
		r.Memory = s.memory.Stats()
	}
	r.Cache, r.Models = s.cacheStats(), s.modelStats()
	return r
}

// answerGather is what this replica sends when another one gathers.
func (s *server) answerGather() []byte {
	b, err := json.Marshal(s.mine(s.monitor.Mergeable()))
	if err != nil {
		s.logger.Error("the figures could not be encoded", "error", err)
		return nil
	}
	return b
}

// gather asks all replicas and sums up. What a replica of another version answers and nobody understands is
// left out.
func (s *server) gather(ctx context.Context) (*clusterStats, error) {
	answers, err := s.node.Gather(ctx)
	if err != nil {
		return nil, err
	}
	sum := clusterStats{HTTP: monitor.Stats{Routes: []monitor.RouteStats{}, Slow: []monitor.Recorded{}, Recent: []monitor.Recorded{}}, Pools: map[string]db.Stats{}, Replicas: []replicaStats{}}
	for id, b := range answers {
		var one replicaStats
		if err = json.Unmarshal(b, &one); err == nil && one.ID == id {
			err = sum.HTTP.Merge(one.HTTP)
		}
		if err != nil || one.ID != id {
			s.logger.WarnContext(ctx, "a replica's figures were not understood", "replica_id", id, "error", err)
			continue
		}
		for name, p := range one.Pools {
			all := sum.Pools[name]
			all.Add(p)
			sum.Pools[name] = all
		}
		sum.addCaches(one)
		one.Models = nil
		one.HTTP.Routes, one.HTTP.Slow, one.HTTP.Recent = []monitor.RouteStats{}, []monitor.Recorded{}, []monitor.Recorded{}
		sum.Replicas = append(sum.Replicas, one)
	}
	slices.SortFunc(sum.Replicas, func(a, b replicaStats) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	if sum.Latency, err = sum.HTTP.Overall(); err != nil {
		return nil, fmt.Errorf("sum up the replicas' figures: %w", err)
	}
	sum.HTTP = sum.HTTP.Shown()
	return &sum, nil
}
