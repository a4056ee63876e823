// Package realtime is the way of a message from whoever publishes it to every browser that subscribed to its
// channel, on every replica, in one order.
//
//	publisher ─► Postgres: append + NOTIFY ─► listener ─► follower ─► hub ─► shard ─► client ─► conn
//	forgewire.publish() ─► outbox ─► drainer ─┘
//
// The log in Postgres gives every message its number (log.go). The publisher appends in group commits; the
// drainer appends what was published from SQL. The listener owns the one connection through which everything
// comes in, and the follower makes an order without holes of what arrives. The hub's shards hand it to the
// clients, which speak the Centrifuge protocol over connections that cost next to nothing while idle.
//
// A Node owns all of it and every goroutine: Run returns when they have ended. The package never decides who
// a user is beyond a token's signature, and knows nothing of HTTP routes or of caches.
//
//	node, err := realtime.New(realtime.Config{Pool: pool, ListenURL: url, …})
//	go node.Run(ctx)
//	http.HandleFunc("GET /connection/websocket", node.ServeWebSocket)
//	_, err = node.Publish(ctx, realtime.Message{Channel: "room:1", Data: []byte(`{"hello":"world"}`)})
package realtime
