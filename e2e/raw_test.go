package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const (
	terminate = syscall.SIGTERM
	text      = websocket.MessageText
)

// rawClient speaks the protocol by hand, to say what no client would.
type rawClient struct {
	t    testing.TB
	conn *websocket.Conn
	left [][]byte // lines of a frame that were not looked at yet
}

// reply is the part of the protocol's replies that the tests look at.
type reply struct {
	ID    int       `json:"id"`
	Error *apiError `json:"error"`

	Connect *struct {
		Client  string `json:"client"`
		Expires bool   `json:"expires"`
		TTL     int    `json:"ttl"`
	} `json:"connect"`
	Subscribe   *subscribeReply `json:"subscribe"`
	Unsubscribe *struct{}       `json:"unsubscribe"`
	Publish     *struct{}       `json:"publish"`
	History     *historyPage    `json:"history"`
	Refresh     *struct{}       `json:"refresh"`
	Push        *struct {
		Channel string `json:"channel"`
		Pub     *struct {
			Data   json.RawMessage `json:"data"`
			Offset uint64          `json:"offset"`
		} `json:"pub"`
		Unsubscribe *struct {
			Code int `json:"code"`
		} `json:"unsubscribe"`
	} `json:"push"`
}

type subscribeReply struct {
	position
	Recoverable   bool              `json:"recoverable"`
	WasRecovering bool              `json:"was_recovering"`
	Recovered     bool              `json:"recovered"`
	Publications  []json.RawMessage `json:"publications"`
}

func dialRaw(t testing.TB, r *replica) *rawClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/connection/websocket", nil) //nolint:bodyclose // the library closes it
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	c := &rawClient{t: t, conn: conn}
	t.Cleanup(c.close)
	return c
}

func (c *rawClient) close() { _ = c.conn.CloseNow() }

// send sends one frame as it is.
func (c *rawClient) send(kind websocket.MessageType, frame []byte) {
	c.t.Helper()
	if err := c.write(kind, frame); err != nil {
		c.t.Fatalf("send %.60q: %v", frame, err)
	}
}

func (c *rawClient) write(kind websocket.MessageType, frame []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.conn.Write(ctx, kind, frame)
}

// next returns the next reply, or the code with which the server closed.
func (c *rawClient) next(within time.Duration) (reply, websocket.StatusCode, error) {
	for {
		for len(c.left) > 0 {
			line := c.left[0]
			c.left = c.left[1:]
			if len(line) == 0 {
				continue
			}
			if string(line) == "{}" { // a ping
				if err := c.write(text, line); err != nil {
					return reply{}, 0, err
				}
				continue
			}
			var r reply
			err := json.Unmarshal(line, &r)
			return r, 0, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), within)
		_, frame, err := c.conn.Read(ctx)
		cancel()
		if code := websocket.CloseStatus(err); code != -1 {
			return reply{}, code, nil
		}
		if err != nil {
			return reply{}, 0, err
		}
		c.left = bytes.Split(frame, []byte("\n"))
	}
}

// ask sends a command and returns its reply, or the code with which the server closed.
func (c *rawClient) ask(command string) (reply, websocket.StatusCode) {
	c.t.Helper()
	id := 0
	_, _ = fmt.Sscanf(command, `{"id":%d,`, &id) // what is no command has none
	c.send(text, []byte(command))
	for {
		r, code, err := c.next(10 * time.Second)
		if err != nil {
			c.t.Fatalf("waiting for the answer to %.200q: %v", command, err)
		}
		if code != 0 || r.ID == id && r.Push == nil {
			return r, code
		}
	}
}

// must is ask for a command that is right.
func (c *rawClient) must(command string) reply {
	c.t.Helper()
	r, code := c.ask(command)
	if code != 0 || r.Error != nil {
		c.t.Fatalf("%.200q: closed with %d, error %v", command, code, r.Error)
	}
	return r
}

func (c *rawClient) connect(token string) reply {
	c.t.Helper()
	return c.must(fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, token))
}

// newCommand starts one of the binary's commands, to read what it prints until ctx ends.
func newCommand(ctx context.Context, t testing.TB, c *cluster, args ...string) *bufio.Reader {
	t.Helper()
	cmd := exec.CommandContext(ctx, forgewire(t), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + c.url}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Log(err)
		}
	})
	return bufio.NewReader(out)
}

// signed makes a token (HS256), as an application's own code would.
func signed(secret string, claims map[string]any) string {
	part := func(v any) string {
		b, _ := json.Marshal(v) // maps of plain values
		return base64.RawURLEncoding.EncodeToString(b)
	}
	head := part(map[string]string{"alg": "HS256", "typ": "JWT"}) + "." + part(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(head))
	return head + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
