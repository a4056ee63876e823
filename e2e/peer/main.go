// Command peer is the centrifuge library with its memory engine behind as much of the server API as
// `forgewire bench` asks for, so that both can be measured in one run. It is a module of its own: Forgewire
// does not depend on what it is compared with.
//
// It listens on 127.0.0.1:PORT. Channels that begin with "crowd:" have presence, those with "past:" history and
// recovery, others neither. -lean takes the library's own settings for many idle connections.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge"
)

func main() {
	lean := flag.Bool("lean", false, "pool write buffers and handle commands outside of the read loop")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *lean); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, lean bool) error {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return fmt.Errorf("make the node: %w", err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnSubscribe(func(e centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{
				EmitPresence:   strings.HasPrefix(e.Channel, "crowd:"),
				EnableRecovery: hasPast(e.Channel),
			}}, nil)
		})
	})
	if err = node.Run(); err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	config := centrifuge.WebsocketConfig{UseWriteBufferPool: lean, ProcessCommandsOffReadLoop: lean}
	server := &http.Server{Handler: routes(node, config), ReadHeaderTimeout: 5 * time.Second}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", os.Getenv("PORT")))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err = server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

func hasPast(channel string) bool { return strings.HasPrefix(channel, "past:") }

func routes(node *centrifuge.Node, config centrifuge.WebsocketConfig) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, config))
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/api/publish", endpoint(func(p publish) (any, error) { return struct{}{}, p.do(node) }))
	mux.Handle("/api/batch", endpoint(func(b batch) (any, error) {
		for _, c := range b.Commands {
			if err := c.Publish.do(node); err != nil {
				return nil, err
			}
		}
		return struct{}{}, nil
	}))
	mux.Handle("/api/history", endpoint(func(c channel) (any, error) {
		h, err := node.History(c.Channel)
		return map[string]any{"offset": h.Offset, "epoch": h.Epoch}, err
	}))
	mux.Handle("/api/presence", endpoint(func(c channel) (any, error) {
		p, err := node.Presence(c.Channel)
		return map[string]any{"presence": p.Presence}, err
	}))
	mux.Handle("/api/presence_stats", endpoint(func(c channel) (any, error) {
		s, err := node.PresenceStats(c.Channel)
		return map[string]any{"num_clients": s.NumClients, "num_users": s.NumUsers}, err
	}))
	return mux
}

type channel struct {
	Channel string `json:"channel"`
}

type publish struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

type batch struct {
	Commands []struct {
		Publish publish `json:"publish"`
	} `json:"commands"`
}

func (p publish) do(node *centrifuge.Node) error {
	var options []centrifuge.PublishOption
	if hasPast(p.Channel) {
		options = append(options, centrifuge.WithHistory(10_000, time.Hour))
	}
	_, err := node.Publish(p.Channel, p.Data, options...)
	return err
}

// endpoint is one method of the API.
func endpoint[T any](do func(T) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in T
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := do(in)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"result": out}) // a caller that has gone needs no answer
	})
}
