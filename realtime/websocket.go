package realtime

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// Sockets is how many WebSockets this replica has.
func (n *Node) Sockets() int64 { return n.sockets.Load() }

// ServeWebSocket accepts a connection that speaks the Centrifuge protocol. It returns after the handshake: see reading.
func (n *Node) ServeWebSocket(w http.ResponseWriter, r *http.Request) {
	if !n.enter() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	leave, ok := n.admit(w, r)
	if !ok {
		n.clients.Done()
		return
	}
	handed := false
	defer func() {
		if !handed {
			leave()
			n.clients.Done()
		}
	}()
	hj := &hijacker{ResponseWriter: w, conn: &conn{}}
	conn := hj.conn
	ws, err := websocket.Accept(hj, r, &websocket.AcceptOptions{
		OnPingReceived:  func(context.Context, []byte) bool { return conn.control() },
		OnPongReceived:  func(context.Context, []byte) { conn.control() },
		OriginPatterns:  n.cfg.AllowedOrigins,
		Subprotocols:    []string{protobufSubprotocol},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		n.logger.DebugContext(r.Context(), "a WebSocket handshake was refused", "error", err)
		return
	}
	ws.SetReadLimit(maxUnconnected)
	f := wsJSON
	if ws.Subprotocol() == protobufSubprotocol || r.URL.Query().Get("cf_protocol") == "protobuf" {
		f = wsProtobuf
	}
	c := newClient(n, conn, f)
	c.headers = n.hooks.keep(r.Header, false)
	n.sockets.Add(1)
	conn.client, conn.ws, conn.leave = c, ws, leave
	if n.full(n.hub.count.Add(1)) {
		c.disconnect(disconnectLimit)
	}
	n.join(c)
	handed = true
	conn.start()
}

// enter counts a connection in, unless this replica is shutting down.
func (n *Node) enter() bool {
	for _, s := range n.strands {
		s.listener.doubt()
	}
	if n.foreign.Load() {
		return false
	}
	n.accepting.RLock()
	defer n.accepting.RUnlock()
	select {
	case <-n.draining:
		return false
	default:
		n.clients.Add(1)
		n.stats.accepted.Add(1)
		return true
	}
}

// join adds a connection that entered to the hub. One that did so too late for Drain to see it is told to go.
func (n *Node) join(c *client) {
	c.shard.add(c)
	select {
	case <-n.draining:
		c.disconnect(disconnectShutdown)
	default:
	}
}
