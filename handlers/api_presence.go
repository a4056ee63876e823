package handlers

import (
	"context"
	"encoding/json"

	"forgewire/realtime"
)

type channelRequest struct {
	Channel string `json:"channel" api:"required"`
}

type clientInfo struct {
	User     string          `json:"user"`
	Client   string          `json:"client"`
	ConnInfo json.RawMessage `json:"conn_info,omitempty"`
	ChanInfo json.RawMessage `json:"chan_info,omitempty"`
}

type presenceResult struct {
	Presence map[string]clientInfo `json:"presence"` // by client
}

// presence lists a channel's members.
func (s *server) presence(ctx context.Context, req *channelRequest) (*presenceResult, error) {
	members, err := s.node.Presence(ctx, req.Channel)
	if err != nil {
		return nil, err
	}
	r := &presenceResult{Presence: make(map[string]clientInfo, len(members))}
	for id, m := range members {
		r.Presence[id] = clientInfo{User: m.User, Client: m.Client, ConnInfo: json.RawMessage(m.ConnInfo), ChanInfo: json.RawMessage(m.ChanInfo)}
	}
	return r, nil
}

type presenceStatsResult struct {
	NumClients int `json:"num_clients"`
	NumUsers   int `json:"num_users"`
}

// presenceStats counts a channel's members.
func (s *server) presenceStats(ctx context.Context, req *channelRequest) (*presenceStatsResult, error) {
	p, err := s.node.PresenceStats(ctx, req.Channel)
	if err != nil {
		return nil, err
	}
	return &presenceStatsResult{NumClients: p.Clients, NumUsers: p.Users}, nil
}

type empty struct{}

// historyRemove hides a channel's messages of now.
func (s *server) historyRemove(ctx context.Context, req *channelRequest) (*empty, error) {
	return &empty{}, s.node.RemoveHistory(ctx, req.Channel)
}

type rpcRequest struct {
	Method string          `json:"method" api:"required"`
	Params json.RawMessage `json:"params"`
}

type rpcResult struct {
	Data json.RawMessage `json:"data"`
}

// rpc calls an extension of the server, of which there are none.
func (s *server) rpc(context.Context, *rpcRequest) (*rpcResult, error) {
	return nil, realtime.ErrNotAvailable.With("the server has no extensions to call")
}
