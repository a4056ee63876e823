package bench

import (
	"context"
	"errors"
	"io"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A loader is a process that holds many clients, since one process may not have enough descriptors for a crowd and
// the server, and since what the clients take must not be counted as the server's. It reads orders, one JSON
// object a line, and answers each with a report. It ends when its input does.

// order has one of its parts.
type order struct {
	Open  *openOrder  `json:"open,omitempty"`
	Await *awaitOrder `json:"await,omitempty"`
	Close *closeOrder `json:"close,omitempty"`
}

// openOrder connects clients, each of which subscribes to the channel. The report comes when all are subscribed.
type openOrder struct {
	Address  string  `json:"address"` // of the server: IP and port
	Host     string  `json:"host"`    // as it calls itself
	Path     string  `json:"path"`    // in front of its endpoints
	Token    string  `json:"token"`   // the clients'; "" for none
	Source   string  `json:"source"`  // the clients' own IP: there are 28,000 ports for each; "" for whichever
	Clients  int     `json:"clients"`
	Parallel int     `json:"parallel"` // how many are connecting at once, without a rate
	Rate     float64 `json:"rate"`     // how many come in a second, whatever the server does; 0: as fast as it takes them
	Channel  string  `json:"channel"`
	Since    *since  `json:"since,omitempty"` // recover what came after
	Messages int     `json:"messages"`        // a client is there when it has so many
}

type since struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
}

// awaitOrder asks for a report when every client has this many messages of its channel.
type awaitOrder struct {
	Messages int  `json:"messages"`
	Timed    bool `json:"timed"` // tell how long each message took from when it was due
}

// closeOrder closes all clients.
type closeOrder struct{}

// report is when an order was begun and fulfilled, in nanoseconds since 1970, or what went wrong.
type report struct {
	From  int64                  `json:"from"`
	To    int64                  `json:"to"`
	Times *hdrhistogram.Snapshot `json:"times,omitempty"` // from when a client, or a message, was due until it was there
	Tally Tally                  `json:"tally"`           // of clients that were to open
	Error string                 `json:"error,omitempty"`
}

// Load runs a loader until its input ends.
func Load(ctx context.Context, in, out interface{ Fd() uintptr }) error {
	if err := runLoader(int(in.Fd()), int(out.Fd())); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		return err
	}
	return nil
}
