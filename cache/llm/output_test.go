package llm

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Who reads steadily, but takes longer for the whole than for any piece of it, gets the whole.
func TestASlowReaderGetsAll(t *testing.T) {
	r, u := single(t, nil)
	r.writeWithin = time.Second
	big := strings.Repeat("x", 2<<20)
	u.handle = answering(200, "application/json", `{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"`+big+`"},"finish_reason":"stop"}]}`)
	small := httptest.NewUnstartedServer(r.http.Config.Handler)
	small.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			_ = c.(*net.TCPConn).SetWriteBuffer(32 << 10) // or the kernel takes it all at once
		}
	}
	small.Start()
	defer small.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(32 << 10)
		}
		return c, err
	}}}
	for _, how := range []string{"fwd=miss", "hit"} {
		resp, err := client.Post(small.URL+"/v1/chat/completions", "application/json", strings.NewReader(ask("big", "")))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(resp.Header.Get("Cache-Status"), how) {
			t.Errorf("%s: %v", how, resp.Header)
		}
		pace := time.NewTicker(100 * time.Millisecond) // 16 times, longer than a piece may take
		var got strings.Builder
		for err = nil; err == nil; <-pace.C {
			_, err = io.CopyN(&got, resp.Body, 128<<10)
		}
		pace.Stop()
		resp.Body.Close()
		if !errors.Is(err, io.EOF) || !strings.Contains(got.String(), big) {
			t.Errorf("%s: %v after %d bytes", how, err, got.Len())
		}
		r.settled(t)
	}
}

// Until the first token comes, whoever waits is told that it will: also on another replica.
func TestASilentStreamSaysThatItLives(t *testing.T) {
	u := newUpstream(t)
	n := newNetwork(t)
	a, b := n.replica(one(t, u), nil), n.replica(one(t, u), nil)
	a.quietFor, b.quietFor = 20*time.Millisecond, 20*time.Millisecond
	for _, c := range []struct {
		name string
		ends []string // how the upstream goes on
		want string
	}{
		{"an answer", []string{word, finish, theEnd}, "\n\ndata: [DONE]\n\n"},
		{"a failure", []string{"CUT"}, `"code":"upstream_truncated"`},
	} {
		g := make(chan struct{})
		u.handle = func(call int64, w http.ResponseWriter, q *http.Request, body []byte) bool {
			streaming()(call, w, q, body)
			_ = http.NewResponseController(w).Flush()
			<-g
			return streaming(c.ends...)(call, w, q, body)
		}
		first := a.listen(t, ask(c.name, streamed))
		first.until(t, alive+alive)
		second := b.listen(t, ask(c.name, streamed))
		second.until(t, alive+alive)
		close(g)
		for i, l := range []*liveStream{first, second} {
			got := l.end(t)
			text := strings.TrimLeft(got, alive)
			status := l.resp.Header.Get("Cache-Status")
			if l.resp.StatusCode != 200 || !strings.Contains(got, c.want) || strings.Contains(got, alive+"\n") || strings.Contains(status, "collapsed") != (i == 1) ||
				c.ends[0] == word && !strings.HasPrefix(text, "id: 0\n") {
				t.Errorf("%s, %d: %s %s", c.name, i, status, got)
			}
		}
		a.settled(t)
	}
	// Before the upstream has said anything, nothing is promised.
	g := make(chan struct{})
	u.handle = func(call int64, w http.ResponseWriter, q *http.Request, body []byte) bool {
		<-g
		return answering(400, "application/json", `{"error":{"message":"bad"}}`)(call, w, q, body)
	}
	l := a.listen(t, ask("refused", streamed))
	time.AfterFunc(10*a.quietFor, func() { close(g) })
	if got := l.end(t); l.resp.StatusCode != 400 || strings.Contains(got, alive) {
		t.Errorf("%d %s", l.resp.StatusCode, got)
	}
}
