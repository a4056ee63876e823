package realtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/centrifugal/protocol"
	"github.com/google/uuid"
)

// Bounds of what one session has to do yet. A client over it is disconnected; it comes back.
const (
	maxSessionCommands = 64      // requests
	maxSessionBytes    = 1 << 20 // of them; one request at least
)

// maxLargeBodies bounds the requests whose commands are larger than maxFirstCommands and lie in memory at
// once: whose they are is known only when all is read.
const maxLargeBodies = 16

// maxForwarded bounds the commands of one request that arrived at another replica than the connection's:
// they travel in one notification, in base64.
const maxForwarded = 5500

// sessions are the connections whose commands come in requests of their own, by a secret that only their
// client knows.
type sessions struct {
	large atomic.Int32 // requests that hold a large body now

	mu sync.Mutex
	by map[string]*session // guarded by mu
}

// session runs a stream's commands, one request after the other. Its goroutine lives only as long as there is
// something to do; close waits for it.
type session struct {
	client *client
	ctx    context.Context // the stream's

	mu      sync.Mutex
	queue   [][]byte // guarded by mu, like all below
	size    int
	running bool
	closed  bool
	done    sync.WaitGroup
}

// open begins a client's session and returns its secret.
func (s *sessions) open(ctx context.Context, c *client) string {
	secret := uuid.NewString() // 122 bits from crypto/rand
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[string]*session{}
	}
	s.by[secret] = &session{client: c, ctx: ctx}
	return secret
}

// close ends a session, if there is one, and waits for the command that it is at.
func (s *sessions) close(secret string) {
	s.mu.Lock()
	one := s.by[secret]
	delete(s.by, secret)
	s.mu.Unlock()
	if one == nil {
		return
	}
	one.mu.Lock()
	one.closed, one.queue = true, nil
	one.mu.Unlock()
	one.done.Wait()
}

// deliver hands commands to a session of this replica, without waiting. It reports whether there is one.
func (s *sessions) deliver(secret string, commands []byte) bool {
	s.mu.Lock()
	one := s.by[secret]
	s.mu.Unlock()
	if one == nil {
		return false
	}
	one.put(commands)
	return true
}

func (s *session) put(commands []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if len(s.queue) >= maxSessionCommands || s.size > 0 && s.size+len(commands) > maxSessionBytes {
		s.client.disconnect(disconnectTooMany)
		return
	}
	s.queue = append(s.queue, commands)
	s.size += len(commands)
	if !s.running {
		s.running = true
		s.done.Go(s.work)
	}
}

// work runs what waits, and ends with it.
func (s *session) work() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		next := s.queue[0]
		s.queue = s.queue[1:]
		s.size -= len(next)
		s.mu.Unlock()
		if d := s.client.handleCommands(s.ctx, next); d != nil {
			s.client.disconnect(d)
		}
	}
}

// ServeEmulation takes commands for a stream, which may belong to another replica: then they are told to it.
func (n *Node) ServeEmulation(w http.ResponseWriter, r *http.Request) {
	if !n.admitOrigin(w, r) {
		return
	}
	limit := max(n.cfg.MaxPublicationBytes+4096, maxFirstCommands) // as a frame of a WebSocket
	body, ok := n.sessions.readBody(w, r, 2*limit)                 // in JSON, quotes take two bytes
	if !ok {
		return
	}
	req, err := parseEmulation(body, isBinary(r))
	if err != nil {
		refuse(w, http.StatusBadRequest, ErrBadRequest.With(err.Error()))
		return
	}
	if len(req.Data) > limit {
		refuse(w, http.StatusRequestEntityTooLarge, ErrLimitExceeded.With("the commands are too large"))
		return
	}
	if req.Node == n.id {
		if !n.sessions.deliver(req.Session, req.Data) {
			refuse(w, http.StatusNotFound, ErrNotAvailable.With("the connection is gone"))
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	defer n.LetGo() // nobody here is in need of the database
	if err = n.forwarding.admit(r.Context(), AddressOf(r), req.Node, req.Session); err != nil {
		n.refuseForward(w, r, err)
		return
	}
	if err = n.relay.forward(r.Context(), control{Op: opEmulate, Node: req.Node, Session: req.Session, Data: req.Data}); err != nil {
		n.refuseForward(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// readBody reads a request's body. If it is large, it takes one of few places.
func (s *sessions) readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, bool) {
	if r.ContentLength < 0 || r.ContentLength > maxFirstCommands {
		defer s.large.Add(-1)
		if s.large.Add(1) > maxLargeBodies {
			refuse(w, http.StatusServiceUnavailable, ErrTooManyRequests)
			return nil, false
		}
	}
	return readBody(w, r, limit)
}

// parseEmulation reads and checks a request. In JSON the commands are a string of JSON.
func parseEmulation(body []byte, binary bool) (*protocol.EmulationRequest, error) {
	var req protocol.EmulationRequest
	if binary {
		if err := req.UnmarshalCF(body); err != nil {
			return nil, errors.New("the request's body is not an EmulationRequest")
		}
		req.Data = bytes.Clone(req.Data)
	} else {
		var j struct{ Node, Session, Data string }
		if err := json.Unmarshal(body, &j); err != nil {
			return nil, errors.New("the request's body is not JSON with the strings node, session and data")
		}
		req.Node, req.Session, req.Data = j.Node, j.Session, []byte(j.Data)
	}
	// Whatever is not ours to begin with must not become a notification.
	if uuid.Validate(req.Node) != nil || uuid.Validate(req.Session) != nil || len(req.Node) != 36 || len(req.Session) != 36 {
		return nil, errors.New("node and session must be those of the connect reply")
	}
	if len(req.Data) == 0 {
		return nil, errors.New("data is empty")
	}
	return &req, nil
}
