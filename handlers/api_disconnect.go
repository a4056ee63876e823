package handlers

import (
	"context"

	"forgewire/realtime"
)

// maxReason is the longest reason that a close frame takes.
const maxReason = 123

type disconnectRequest struct {
	User       string           `json:"user" api:"required"`
	Client     string           `json:"client"` // only this connection of the user's
	Disconnect *disconnectOrder `json:"disconnect"`
	Whitelist  unsupported      `json:"whitelist"`
	Session    unsupported      `json:"session"`
}

type disconnectOrder struct {
	Code   uint16 `json:"code"` // from 3500 on, the client does not come back by itself
	Reason string `json:"reason"`
}

// disconnect ends a user's connections, wherever they are.
func (s *server) disconnect(ctx context.Context, req *disconnectRequest) (*empty, error) {
	var d realtime.Disconnect
	if o := req.Disconnect; o != nil {
		if len(o.Reason) > maxReason {
			return nil, realtime.ErrLimitExceeded.With("the reason is longer than 123 bytes")
		}
		if o.Code == 0 && o.Reason != "" {
			return nil, realtime.ErrBadRequest.With("a reason needs a code")
		}
		d = realtime.Disconnect{Code: o.Code, Reason: o.Reason}
	}
	return &empty{}, s.node.Disconnect(ctx, req.User, req.Client, d)
}
