package handlers

import (
	"context"
	"path"

	"forgewire/realtime"
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

// channels lists the channels that have subscribers on this replica.
func (s *server) channels(_ context.Context, req *channelsRequest) (*channelsResult, error) {
	if _, err := path.Match(req.Pattern, ""); err != nil {
		return nil, realtime.ErrBadRequest.With("pattern is not valid")
	}
	r := &channelsResult{Channels: map[string]channelInfo{}}
	for name, n := range s.node.Channels() {
		if ok, _ := path.Match(req.Pattern, name); ok || req.Pattern == "" {
			r.Channels[name] = channelInfo{NumClients: n}
		}
	}
	return r, nil
}

type infoRequest struct{}

type nodeInfo struct {
	UID         string `json:"uid"`
	Name        string `json:"name"`
	Version     string `json:"version"`
	NumClients  int    `json:"num_clients"`
	NumChannels int    `json:"num_channels"`
	Uptime      int    `json:"uptime"` // seconds
}

type infoResult struct {
	Nodes []nodeInfo `json:"nodes"`
}

// info describes this replica.
func (s *server) info(context.Context, *infoRequest) (*infoResult, error) {
	i := s.node.Info()
	return &infoResult{Nodes: []nodeInfo{{
		UID: i.ID, Name: s.replica, Version: s.version,
		NumClients: i.Clients, NumChannels: i.Channels, Uptime: int(i.Uptime.Seconds()),
	}}}, nil
}
