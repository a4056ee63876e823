package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"forgewire/realtime"
)

const (
	maxListed  = 200 // channels, the busiest
	maxMembers = 200
	maxPast    = 20 // messages
)

type channelRow struct {
	Channel string `json:"channel"`
	Clients int    `json:"clients"`
}

type channelList struct {
	Channels []channelRow `json:"channels"`
	Total    int          `json:"total"`
}

// getChannels lists channels that have subscribers, those with the most first. Our own are left out.
func (a *Admin) getChannels(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	pattern := r.URL.Query().Get("pattern")
	if pattern != "" && !strings.ContainsAny(pattern, `*?[\`) {
		pattern = "*" + pattern + "*"
	}
	channels, err := a.cfg.Node.Channels(ctx, pattern)
	if err != nil {
		a.failed(w, r, err)
		return
	}
	list := channelList{Channels: []channelRow{}}
	for name, n := range channels {
		if !strings.HasPrefix(name, realtime.OperatorNamespace+":") {
			list.Channels = append(list.Channels, channelRow{name, n})
		}
	}
	slices.SortFunc(list.Channels, func(a, b channelRow) int {
		return cmp.Or(cmp.Compare(b.Clients, a.Clients), cmp.Compare(a.Channel, b.Channel))
	})
	list.Total = len(list.Channels)
	list.Channels = list.Channels[:min(len(list.Channels), maxListed)]
	a.write(w, r, http.StatusOK, list)
}

type member struct {
	User   string `json:"user"`
	Client string `json:"client"`
}

type message struct {
	Offset uint64          `json:"offset"`
	Data   json.RawMessage `json:"data"`
	User   string          `json:"user,omitempty"`
}

// channelState is one channel. Presence and Past are null where its namespace has none.
type channelState struct {
	Presence []member  `json:"presence"`
	Users    int       `json:"users"`
	Clients  int       `json:"clients"`
	Past     []message `json:"past"` // the newest first
}

// getChannel says who is on a channel and what was said there last.
func (a *Admin) getChannel(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	channel := r.URL.Query().Get("channel")
	var s channelState
	err := a.who(ctx, channel, &s)
	if err == nil {
		err = a.past(ctx, channel, &s)
	}
	if err != nil {
		a.failed(w, r, err)
		return
	}
	a.write(w, r, http.StatusOK, s)
}

// notKept says whether an error means that the channel's namespace has no such thing.
func notKept(err error) bool {
	var e *realtime.Error
	return errors.As(err, &e) && e.Code == realtime.ErrNotAvailable.Code
}

func (a *Admin) who(ctx context.Context, channel string, s *channelState) error {
	stats, err := a.cfg.Node.PresenceStats(ctx, channel)
	if notKept(err) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Users, s.Clients, s.Presence = stats.Users, stats.Clients, []member{}
	if stats.Clients > realtime.MaxPresence {
		return nil // the numbers say enough
	}
	members, err := a.cfg.Node.Presence(ctx, channel)
	if err != nil {
		return err
	}
	for id, m := range members {
		s.Presence = append(s.Presence, member{User: m.User, Client: id})
	}
	slices.SortFunc(s.Presence, func(a, b member) int { return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Client, b.Client)) })
	s.Presence = s.Presence[:min(len(s.Presence), maxMembers)]
	return nil
}

func (a *Admin) past(ctx context.Context, channel string, s *channelState) error {
	h, err := a.cfg.Node.History(ctx, channel, realtime.HistoryFilter{Limit: maxPast, Reverse: true})
	if notKept(err) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Past = []message{}
	for _, m := range h.Messages {
		one := message{Offset: m.Offset, Data: m.Data}
		if m.Meta.Info != nil {
			one.User = m.Meta.Info.User
		}
		s.Past = append(s.Past, one)
	}
	return nil
}

// publishRequest is a message to publish.
type publishRequest struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

// postPublish publishes as the server API does.
func (a *Admin) postPublish(w http.ResponseWriter, r *http.Request) {
	var p publishRequest
	err := read(w, r, &p)
	var done []realtime.Message
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		done, err = a.cfg.Node.Publish(ctx, realtime.Message{Channel: p.Channel, Data: p.Data})
	}
	if err != nil {
		a.failed(w, r, err)
		return
	}
	a.write(w, r, http.StatusOK, struct {
		Offset uint64 `json:"offset"`
	}{done[0].Offset})
}
