package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/coder/websocket"
)

// subscriber is one WebSocket that speaks as much of the Centrifuge protocol as is needed to follow channels.
// It is used by one goroutine.
type subscriber struct {
	ws  *websocket.Conn
	buf []byte
}

// Commands of the protocol; json.Marshal of strings and structs of strings cannot fail.
type command struct {
	ID        int             `json:"id"`
	Connect   *connectRequest `json:"connect,omitempty"`
	Subscribe *channelRequest `json:"subscribe,omitempty"`
}

type connectRequest struct {
	Token string `json:"token,omitempty"`
}

type channelRequest struct {
	Channel string `json:"channel"`
}

// subscribe connects to base and follows channels from now on.
func subscribe(ctx context.Context, base *url.URL, token string, channels []string) (*subscriber, error) {
	u := *base
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[base.Scheme]
	u.Path += "/connection/websocket"
	ws, _, err := websocket.Dial(ctx, u.String(), nil) //nolint:bodyclose // the package's own business
	if err != nil {
		return nil, fmt.Errorf("connect a subscriber to %s: %w", base.Host, err)
	}
	ws.SetReadLimit(-1)
	s := &subscriber{ws: ws, buf: make([]byte, 64<<10)}
	err = s.ask(ctx, command{ID: 1, Connect: &connectRequest{Token: token}})
	for i, c := range channels {
		if err == nil {
			err = s.ask(ctx, command{ID: i + 2, Subscribe: &channelRequest{Channel: c}})
		}
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("subscribe on %s: %w", base.Host, err)
	}
	return s, nil
}

// ask sends a command and waits for its reply. Nothing else arrives: nobody publishes yet.
func (s *subscriber) ask(ctx context.Context, c command) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode a command: %w", err)
	}
	if err = s.ws.Write(ctx, websocket.MessageText, b); err != nil {
		return fmt.Errorf("send a command: %w", err)
	}
	frame, err := s.next(ctx)
	if err != nil {
		return err
	}
	var reply struct {
		ID    int             `json:"id"`
		Error json.RawMessage `json:"error"`
	}
	if err = json.Unmarshal(frame, &reply); err != nil || reply.ID != c.ID || reply.Error != nil {
		return fmt.Errorf("the reply to %s was %s", b, frame)
	}
	return nil
}

var ping = []byte("{}")

// next returns the next frame, whose replies are separated by line breaks; it is valid until the next call.
// Pings are answered.
func (s *subscriber) next(ctx context.Context) ([]byte, error) {
	for {
		_, r, err := s.ws.Reader(ctx)
		if err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		n := 0
		for {
			if n == len(s.buf) {
				s.buf = append(s.buf, make([]byte, n)...)
			}
			m, err := r.Read(s.buf[n:])
			n += m
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("receive: %w", err)
			}
		}
		frame := s.buf[:n]
		if !bytes.Equal(frame, ping) {
			return frame, nil
		}
		if err = s.ws.Write(ctx, websocket.MessageText, ping); err != nil {
			return nil, fmt.Errorf("answer a ping: %w", err)
		}
	}
}

func (s *subscriber) close() { _ = s.ws.CloseNow() }
