package realtime

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/centrifugal/protocol"
	"github.com/coder/websocket"
	"github.com/google/uuid"
)

// client is one connection that speaks the Centrifuge protocol.
type client struct {
	id    string // fixed
	node  *Node
	shard *shard
	// session is the secret by which commands find a stream; "" where they come over the connection itself.
	session string
	// out takes what is sent, in this format.
	out    transport
	format format

	// Owned by whoever handles a command: one at a time.
	user      string
	identity  *identity // nil where no namespace asks the database
	known     bool      // it has said who it is, and may be here
	counted   bool      // among its user's connections
	operator  bool      // see OperatorNamespace; fixed before it is connected
	commands  bucket
	publishes map[string]*bucket // by namespace, where it has a rate
	headers   http.Header        // of the handshake: those that hooks are sent, nil for none

	// Guarded by shard.mu.
	connected  bool
	hasToken   bool
	named      bool      // a token or the connect hook says who it is, so that can be revoked
	issued     time.Time // the token, zero if it does not say; or when the hook was asked
	expires    time.Time // the same, or what the connect hook said; zero for never
	meta       []byte    // JSON, of the connect hook, for the others
	refreshing bool      // the refresh hook is being asked
	waited     bool      // it was given the connect hook's time, beside its own, to connect
	subs       map[string]*subscription
	staleAt    int // ticks
	oldAt      int // 0 for never
	pingAt     int
	pongBy     int // 0 while no pong is owed
	first      []byte
	rest       []byte

	info      atomic.Pointer[[]byte] // JSON, of the token or a hook, shown to others; nil for none
	ponged    atomic.Bool
	busy      atomic.Bool // with commands: what is behind them, a pong too, is not read
	ended     atomic.Bool // it was told to go: what it still sends is not carried out
	showsInfo atomic.Bool // one of its subscriptions has info
	guard     guard       // of the WebSocket's reader
}

// transport is how bytes reach a client.
type transport interface {
	// send takes what is encoded and never blocks. It returns errSlow, and drops it, if something waits
	// already and it would be more than limit bytes.
	send(encoded []byte, limit int) error
	// disconnect tells the client why, and ends the connection soon. It reports whether it was the first to.
	disconnect(d *Disconnect) bool
	// Close ends the connection at once.
	Close() error
}

func newClient(n *Node, out transport, f format) *client {
	id := uuid.NewString()
	return &client{id: id, node: n, shard: n.hub.shardFor(id), out: out, format: f, subs: map[string]*subscription{}}
}

// send hands a frame to the connection. A client that is too slow to take it is disconnected: it resumes
// from its position, so it loses nothing, and nobody else waits.
func (c *client) send(frame []byte) {
	if errors.Is(c.out.send(frame, c.node.pendingLimit()), errSlow) {
		c.disconnect(disconnectSlow)
	}
}

// reply sends the answer to a command, which may be large: the client asked for it.
func (c *client) reply(r *protocol.Reply) { c.sendReply(c.format.encode(r)) }

func (c *client) sendReply(frame []byte) {
	if errors.Is(c.out.send(frame, maxReply), errSlow) {
		c.disconnect(disconnectSlow)
	}
}

func (c *client) disconnect(d *Disconnect) {
	c.ended.Store(true)
	if c.out.disconnect(d) {
		c.node.stats.disconnects.add(d)
	}
}

// handleMessage runs what the client has sent, unless it was told to go.
func (c *client) handleMessage(ctx context.Context, kind websocket.MessageType, data []byte) {
	if c.ended.Load() || bytes.Equal(data, c.format.pong()) {
		c.ponged.Store(true)
		return
	}
	if d := c.handleFrame(ctx, kind, data); d != nil {
		c.disconnect(d)
	}
}

// pong is what the official clients answer a ping with: an empty command.
var pong, pongProtobuf = []byte("{}"), []byte{0}

func (f format) pong() []byte {
	if f.protocol() == protocol.TypeProtobuf {
		return pongProtobuf
	}
	return pong
}

// handleFrame runs the commands of one frame.
func (c *client) handleFrame(ctx context.Context, kind websocket.MessageType, data []byte) *Disconnect {
	switch binary := c.format == wsProtobuf; {
	case binary && kind != websocket.MessageBinary:
		return badRequest("frames must be binary")
	case !binary && kind != websocket.MessageText:
		return badRequest("frames must be text")
	}
	return c.handleCommands(ctx, data)
}

// handleCommands runs commands in the client's form of the protocol.
func (c *client) handleCommands(ctx context.Context, data []byte) *Disconnect {
	if c.ended.Load() {
		return nil
	}
	c.busy.Store(true)
	defer c.busy.Store(false)
	defer c.survive()
	if c.format.protocol() == protocol.TypeProtobuf {
		return c.handleProtobuf(ctx, data)
	}
	return c.handleJSON(ctx, data)
}

// handleJSON runs commands, one a line.
func (c *client) handleJSON(ctx context.Context, data []byte) (d *Disconnect) {
	if !utf8.Valid(data) {
		return badRequest("not valid UTF-8")
	}
	for more := true; more; {
		var line []byte
		line, data, more = bytes.Cut(data, []byte("\n"))
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		cmd, err := protocol.NewJSONCommandDecoder(line).Decode()
		if err != nil && !errors.Is(err, io.EOF) || cmd == nil {
			return badRequest("not a JSON command")
		}
		if d = c.handle(ctx, cmd); d != nil || c.ended.Load() {
			return d
		}
	}
	return nil
}

// handleProtobuf runs commands, each behind its length.
func (c *client) handleProtobuf(ctx context.Context, data []byte) *Disconnect {
	decoder := protocol.NewProtobufCommandDecoder(data)
	for {
		cmd, err := decoder.Decode()
		if err != nil && !errors.Is(err, io.EOF) || cmd == nil {
			return badRequest("not a Protobuf command")
		}
		if d := c.handle(ctx, cmd); d != nil || c.ended.Load() {
			return d
		}
		if err != nil {
			return nil //nolint:nilerr // io.EOF: that was the last one
		}
	}
}

// handle runs one command. The command's strings point into the read buffer: what outlives the command is
// cloned.
func (c *client) handle(ctx context.Context, cmd *protocol.Command) *Disconnect {
	c.node.stats.commands.Add(1)
	if c.ended.Load() {
		return nil
	}
	if refused, d := c.throttle(cmd); refused {
		return d
	}
	if cmd.Connect != nil {
		return c.connect(ctx, cmd)
	}
	if !c.isConnected() {
		return badRequest("the first command must be connect")
	}
	if cmd.Id == 0 && cmd.Send == nil {
		if isPong(cmd) {
			c.ponged.Store(true)
			return nil
		}
		return badRequest("a command needs an id")
	}
	reply := &protocol.Reply{Id: cmd.Id}
	var err error
	switch {
	case cmd.Subscribe != nil:
		return c.subscribe(ctx, cmd)
	case cmd.Unsubscribe != nil:
		c.unsubscribe(cmd.Unsubscribe.Channel)
		reply.Unsubscribe = &protocol.UnsubscribeResult{}
	case cmd.Publish != nil:
		reply.Publish, err = &protocol.PublishResult{}, c.publish(ctx, cmd.Publish)
	case cmd.History != nil:
		reply.History, err = c.history(ctx, cmd.History)
	case cmd.Refresh != nil:
		reply.Refresh, err = c.refresh(ctx, cmd.Refresh)
	case cmd.SubRefresh != nil:
		reply.SubRefresh, err = c.subRefresh(ctx, cmd.SubRefresh)
	case cmd.Ping != nil:
		reply.Ping = &protocol.PingResult{}
	case cmd.Send != nil:
		return disconnectNotAvailable
	case cmd.Presence != nil:
		reply.Presence, err = c.presence(ctx, cmd.Presence)
	case cmd.PresenceStats != nil:
		reply.PresenceStats, err = c.presenceStats(ctx, cmd.PresenceStats)
	case cmd.Rpc != nil:
		reply.Rpc, err = c.rpc(ctx, cmd.Rpc)
	default:
		err = ErrMethodNotFound
	}
	if err != nil {
		var d *Disconnect
		if errors.As(err, &d) {
			return d
		}
		reply = &protocol.Reply{Id: cmd.Id, Error: c.errorFor(err).reply()}
	}
	c.reply(reply)
	return nil
}

// survive, deferred, keeps a panic of what a client asked for to that client. It does not come back by itself: it would ask
// for the same again.
func (c *client) survive() {
	if p := recover(); p != nil {
		c.node.logger.Error("what was done for a client panicked", "client", c.id, "panic", p, "stack", string(debug.Stack()))
		c.disconnect(disconnectPanicked)
	}
}

func isPong(cmd *protocol.Command) bool {
	return cmd.Connect == nil && cmd.Subscribe == nil && cmd.Unsubscribe == nil && cmd.Publish == nil && cmd.History == nil &&
		cmd.Refresh == nil && cmd.Ping == nil && cmd.Presence == nil && cmd.PresenceStats == nil && cmd.Rpc == nil && cmd.SubRefresh == nil
}

// errorFor turns any error into one that a client may see.
func (c *client) errorFor(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if !errors.Is(err, context.Canceled) { // else the client has left, or the replica ends
		c.node.logger.Warn("a client's command failed", "client", c.id, "error", err)
	}
	return ErrInternal
}

func (c *client) isConnected() bool {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	return c.connected
}
