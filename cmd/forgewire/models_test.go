package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"forgewire/db/dbtest"
	"forgewire/infra/config"
)

const testKey = "0123456789abcdef0123"

// startApp runs a whole replica until the test ends, and returns its address.
func startApp(t *testing.T, environ ...string) string {
	t.Helper()
	cfg, err := config.Load(append([]string{"FORGEWIRE_API_KEY=" + testKey, "FORGEWIRE_TOKEN_SECRET=none", "FORGEWIRE_ALLOW_ANONYMOUS=true",
		"FORGEWIRE_SHUTDOWN_TIMEOUT=2s"}, environ...))
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(appConfig{Config: cfg, Logger: slog.New(slog.DiscardHandler), Replica: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, ln, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	url := "http://" + ln.Addr().String()
	soon(t, 20*time.Second, "the replica is ready", func() bool {
		resp, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return url
}

func soon(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

// askModel returns the response to a streamed question.
func askModel(t *testing.T, url, prompt string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("POST", url+"/v1/chat/completions", strings.NewReader(fmt.Sprintf(`{"model":"m","stream":true,"messages":[{"role":"user","content":%q}]}`, prompt)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return nil
	}
	return resp
}

// TestModelsOverTwoReplicas has everything real but the model: 200 identical requests over two replicas are one call,
// a browser hears the tokens over its own channel, and the answer is resumed on the other replica.
func TestModelsOverTwoReplicas(t *testing.T) {
	var calls atomic.Int64
	goOn := make(chan struct{})
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 20 {
			if i == 5 {
				<-goOn
			}
			fmt.Fprintf(w, "data: {\"id\":\"chatcmpl-%d\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"w%d \"},\"finish_reason\":null}]}\n\n", n, i)
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
	}))
	defer model.Close()
	database := "DATABASE_URL=" + dbtest.New(t)
	urls := []string{startApp(t, database, "FORGEWIRE_UPSTREAM_URL="+model.URL+"/v1"), startApp(t, database, "FORGEWIRE_UPSTREAM_URL="+model.URL+"/v1")}

	first := askModel(t, urls[0], "same")
	defer first.Body.Close()
	lines := bufio.NewScanner(first.Body)
	var begun strings.Builder
	for lines.Scan() {
		fmt.Fprintln(&begun, lines.Text())
		if strings.Contains(lines.Text(), "w4") {
			break
		}
	}
	id := first.Header.Get("Forgewire-Id")
	heard := make(chan string, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() { heard <- hear(ctx, urls[1]+"/v1/channels/llm:"+id+"/events") }()

	bodies := make(chan string, 200)
	var wg sync.WaitGroup
	var arrived atomic.Int64
	for i := range 199 {
		wg.Go(func() {
			resp := askModel(t, urls[i%2], "same")
			if resp == nil {
				bodies <- ""
				return
			}
			defer resp.Body.Close()
			arrived.Add(1) // its first tokens are here, while the model waits
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			bodies <- string(b)
		})
	}
	soon(t, 20*time.Second, "all have joined", func() bool { return arrived.Load() == 199 })
	close(goOn)
	wg.Wait()
	rest, err := io.ReadAll(first.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := <-bodies
	if !strings.HasSuffix(want, "data: [DONE]\n\n") || strings.Count(want, "data: ") != 22 {
		t.Errorf("%s", want)
	}
	for range 198 {
		if b := <-bodies; b != want {
			t.Errorf("%s\nwant %s", b, want)
		}
	}
	if !strings.HasPrefix(want, begun.String()) || !strings.HasSuffix(begun.String()+string(rest), "[DONE]\n\n") && len(rest) > 0 && !strings.HasSuffix(want, string(rest)[len(rest)/2:]) {
		t.Errorf("the first heard something else: %s%s", begun.String(), rest)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
	if h := <-heard; !strings.Contains(h, `"w19 "`) || !strings.Contains(h, `"end":{"done":true}`) {
		t.Errorf("the browser heard %s", h)
	}
	for i, name := range []string{id, id, "chatcmpl-1"} {
		_, b := request(t, "GET", urls[i%2]+"/v1/responses/"+name+"?stream=true&starting_after=17", "", testKey)
		if !strings.HasPrefix(b, "id: 18\n") || !strings.Contains(b, "w19 ") || !strings.HasSuffix(b, "data: [DONE]\n\n") {
			t.Errorf("%s: %s", name, b)
		}
	}
	// Where the model's id leads is nobody's to read: it can be guessed, and ours opens the answer.
	sum := sha256.Sum256([]byte("14:tenant:default10:chatcmpl-1"))
	channel := "llm-by:" + hex.EncodeToString(sum[:])
	if _, b := request(t, "POST", urls[0]+"/api/history", `{"channel":"`+channel+`","limit":1}`, testKey); !strings.Contains(b, id) {
		t.Errorf("the channel is another one: %s", b)
	}
	for _, u := range urls {
		if status, b := request(t, "GET", u+"/v1/channels/"+channel+"/events?since=x-1", "", ""); status != http.StatusForbidden || strings.Contains(b, id) {
			t.Errorf("%d: %s", status, b)
		}
		ws, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(u, "http")+"/connection/websocket", nil) //nolint:bodyclose // the library closes it
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ws.CloseNow() }()
		for i, command := range []string{`{"id":1,"connect":{}}`, `{"id":2,"subscribe":{"channel":"` + channel + `"}}`, `{"id":3,"history":{"channel":"` + channel + `","limit":1}}`} {
			if err := ws.Write(ctx, websocket.MessageText, []byte(command)); err != nil {
				t.Fatal(err)
			}
			if _, b, err := ws.Read(ctx); err != nil || i > 0 && !strings.Contains(string(b), `"code":103`) {
				t.Errorf("%s: %s, %v", command, b, err)
			}
		}
	}
}

// request makes one, with a key of the server's if it is not "".
func request(t *testing.T, method, url, body, key string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("X-Api-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(b)
}

// hear returns what a channel brings until the answer ends. Its past comes first if the position is older.
func hear(ctx context.Context, url string) string {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var all strings.Builder
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		fmt.Fprintln(&all, lines.Text())
		if strings.Contains(lines.Text(), `"end"`) {
			break
		}
	}
	return all.String()
}
