package handlers

import (
	"context"
	"net/http"
)

type channelsRequest struct {
	Pattern string `json:"pattern"` // as path.Match has them; "" for all
}

type channelInfo struct {
	NumClients int `json:"num_clients"`
}

type channelsResult struct {
	Channels map[string]channelInfo `json:"channels"`
}

// channels lists the channels that have subscribers.
func (s *server) channels(ctx context.Context, req *channelsRequest) (*channelsResult, error) {
	channels, err := s.node.Channels(ctx, req.Pattern)
	if err != nil {
		return nil, err
	}
	r := &channelsResult{Channels: make(map[string]channelInfo, len(channels))}
	for name, n := range channels {
		r.Channels[name] = channelInfo{NumClients: n}
	}
	return r, nil
}

type nodeInfo struct {
	UID         string `json:"uid"`
	Name        string `json:"name"`
	Version     string `json:"version"`
	NumClients  int    `json:"num_clients"`
	NumUsers    int    `json:"num_users"`
	NumSubs     int    `json:"num_subs"`
	NumChannels int    `json:"num_channels"`
	Uptime      int    `json:"uptime"` // seconds
}

type infoResult struct {
	Nodes []nodeInfo `json:"nodes"`
}

// info describes the replicas.
func (s *server) info(ctx context.Context, _ *empty) (*infoResult, error) {
	replicas, err := s.node.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	r := &infoResult{Nodes: make([]nodeInfo, len(replicas))}
	for i, n := range replicas {
		r.Nodes[i] = nodeInfo{UID: n.ID, Name: n.Name, Version: n.Version, NumClients: n.Clients, NumUsers: n.Users,
			NumSubs: n.Subscriptions, NumChannels: n.Channels, Uptime: int(n.Uptime.Seconds())}
	}
	return r, nil
}

// stats are the figures of the replica that answers, and of no other.
func (s *server) stats(w http.ResponseWriter, r *http.Request) {
	stats := s.node.Stats()
	s.write(w, r, http.StatusOK, map[string]any{"result": stats})
}
