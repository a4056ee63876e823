package handlers

import (
	"context"
	"encoding/json"
	"time"

	"forgewire/realtime"
)

type subscribeRequest struct {
	User         string          `json:"user" api:"required"`
	Channel      string          `json:"channel" api:"required"`
	Client       string          `json:"client"` // only this connection of the user's
	Info         json.RawMessage `json:"info"`   // shown to others of the channel
	Data         json.RawMessage `json:"data"`   // given to the client with the subscription
	B64Info      unsupported     `json:"b64info"`
	B64Data      unsupported     `json:"b64data"`
	ExpireAt     unsupported     `json:"expire_at"`
	RecoverSince unsupported     `json:"recover_since"`
	Override     unsupported     `json:"override"`
	Session      unsupported     `json:"session"`
}

// subscribe adds a channel to a user's connections, wherever they are.
func (s *server) subscribe(ctx context.Context, req *subscribeRequest) (*empty, error) {
	return &empty{}, s.node.Subscribe(ctx, req.User, req.Client, req.Channel, realtime.SubscribeOptions{Info: req.Info, Data: req.Data})
}

type unsubscribeRequest struct {
	User    string      `json:"user" api:"required"`
	Channel string      `json:"channel" api:"required"`
	Client  string      `json:"client"` // only this connection of the user's
	Session unsupported `json:"session"`
}

// unsubscribe takes a channel from a user's connections, wherever they are.
func (s *server) unsubscribe(ctx context.Context, req *unsubscribeRequest) (*empty, error) {
	return &empty{}, s.node.Unsubscribe(ctx, req.User, req.Client, req.Channel, 0, "")
}

type refreshRequest struct {
	User     string      `json:"user" api:"required"`
	Client   string      `json:"client"`    // only this connection of the user's
	Expired  bool        `json:"expired"`   // end it now; the client gets a new token and comes back
	ExpireAt int64       `json:"expire_at"` // seconds since 1970; 0 for never
	Info     unsupported `json:"info"`
	Session  unsupported `json:"session"`
}

// refresh makes a user's connections end at another time, wherever they are.
func (s *server) refresh(ctx context.Context, req *refreshRequest) (*empty, error) {
	if req.ExpireAt < 0 {
		return nil, realtime.ErrBadRequest.With("expire_at is before 1970")
	}
	var at time.Time
	if req.ExpireAt > 0 {
		at = time.Unix(req.ExpireAt, 0)
	}
	return &empty{}, s.node.Refresh(ctx, req.User, req.Client, req.Expired, at)
}
