package handlers

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"

	"forgewire/realtime"
)

// The server API has Centrifugo's requests and replies, so that its server SDKs work: POST /api/METHOD with a
// JSON object, answered by {"result": …} or {"error": {"code": …, "message": …}}.

// method is one method of the API: the routes, batch and the OpenAPI document are made of it.
type method struct {
	name, about     string
	request, result reflect.Type
	call            func(ctx context.Context, body []byte) (any, *realtime.Error)
}

// methods lists the API.
func methods(s *server) []method {
	return []method{
		newMethod(s, "publish", "Publish data on a channel. Answered when it is committed.", s.publish),
		newMethod(s, "broadcast", "Publish the same data on several channels, in one transaction.", s.broadcast),
		newMethod(s, "subscribe", "Subscribe a user's connections on every replica, or one of them, to a channel.", s.subscribe),
		newMethod(s, "unsubscribe", "Take a channel from a user's connections on every replica, or from one of them.", s.unsubscribe),
		newMethod(s, "refresh", "Make a user's connections on every replica, or one of them, end at another time.", s.refresh),
		newMethod(s, "disconnect", "End a user's connections on every replica, or one of them.", s.disconnect),
		newMethod(s, "presence", "List who is subscribed to a channel, on all replicas.", s.presence),
		newMethod(s, "presence_stats", "Count who is subscribed to a channel, on all replicas.", s.presenceStats),
		newMethod(s, "history", "Page through a channel's messages.", s.history),
		newMethod(s, "history_remove", "Hide a channel's messages of now from history and recovery.", s.historyRemove),
		newMethod(s, "channels", "List the channels that have subscribers on any replica.", s.channels),
		newMethod(s, "info", "Describe the replica that answers and all others that have clients.", s.info),
		newMethod(s, "rpc", "Always answered with error 108: Forgewire runs no code of yours.", s.rpc),
	}
}

func newMethod[Request, Result any](s *server, name, about string, f func(context.Context, *Request) (*Result, error)) method {
	return method{name: name, about: about, request: reflect.TypeFor[Request](), result: reflect.TypeFor[Result](),
		call: func(ctx context.Context, body []byte) (any, *realtime.Error) {
			req := new(Request)
			if err := decode(body, req); err != nil {
				return nil, realtime.ErrBadRequest.With(err.Error())
			}
			result, err := f(ctx, req)
			if err != nil {
				return nil, s.errorFor(ctx, err)
			}
			return result, nil
		}}
}

// handle makes a method's handler.
func (s *server) handle(m method) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, ok := s.body(w, r)
		if !ok {
			return
		}
		result, e := m.call(r.Context(), body)
		if e != nil {
			s.fail(w, r, statusOf(e), e)
			return
		}
		s.write(w, r, http.StatusOK, map[string]any{"result": result})
	}
}

// unsupported is a field that Centrifugo has and we cannot honour. SDKs send it empty; set, it is refused:
// whoever sets it relies on it.
type unsupported struct{ set bool }

func (u *unsupported) UnmarshalJSON(b []byte) error {
	switch strings.Join(strings.Fields(string(b)), "") {
	case "null", "false", "0", `""`, "[]", "{}":
	default:
		u.set = true
	}
	return nil
}

// refused names a field of a request that is set and unsupported.
func refused(request any) error {
	v := reflect.Indirect(reflect.ValueOf(request))
	if v.Kind() != reflect.Struct {
		return nil
	}
	for f, value := range v.Fields() {
		if u, ok := value.Interface().(unsupported); ok && u.set {
			return errors.New(f.Tag.Get("json") + " is not supported")
		}
	}
	return nil
}
