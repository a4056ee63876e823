package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Each bad thing ends in the protocol's error or disconnect; the server serves the next client as before.
func TestBadInputOverWebSocket(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{env: []string{"FORGEWIRE_MAX_PUBLICATION_BYTES=65536"}})
	r := c.replicas[0]
	healthy := c.subscribe(0, "chat:1")
	long := strings.Repeat("x", 256)

	// Answered with an error; the connection goes on.
	for name, bad := range map[string]struct {
		command string
		code    int
	}{
		"subscribe, empty channel":     {`{"id":5,"subscribe":{"channel":""}}`, 107},
		"subscribe, no channel":        {`{"id":5,"subscribe":{}}`, 107},
		"subscribe, long channel":      {fmt.Sprintf(`{"id":5,"subscribe":{"channel":%q}}`, long), 107},
		"subscribe, control character": {`{"id":5,"subscribe":{"channel":"a\u0001"}}`, 107},
		"subscribe, NUL":               {`{"id":5,"subscribe":{"channel":"a\u0000b"}}`, 107},
		"subscribe, not ASCII":         {`{"id":5,"subscribe":{"channel":"é"}}`, 107},
		"subscribe, line break":        {`{"id":5,"subscribe":{"channel":"a\nb"}}`, 107},
		"subscribe twice":              {`{"id":5,"subscribe":{"channel":"chat:1"}}`, 105},
		"subscribe, private":           {`{"id":5,"subscribe":{"channel":"$private"}}`, 103},
		"subscribe, another user's":    {`{"id":5,"subscribe":{"channel":"dm#ann"}}`, 103},
		"subscribe, nobody's":          {`{"id":5,"subscribe":{"channel":"dm#"}}`, 103},
		"publish, not allowed":         {`{"id":5,"publish":{"channel":"room:1","data":{}}}`, 103},
		"publish, not subscribed":      {`{"id":5,"publish":{"channel":"chat:2","data":{}}}`, 103},
		"publish, empty channel":       {`{"id":5,"publish":{"channel":"","data":{}}}`, 107},
		"publish, no data":             {`{"id":5,"publish":{"channel":"open:1"}}`, 107},
		"publish, too large":           {fmt.Sprintf(`{"id":5,"publish":{"channel":"open:1","data":%q}}`, strings.Repeat("x", 65_600)), 106},
		"history, not subscribed":      {`{"id":5,"history":{"channel":"chat:2","limit":1}}`, 103},
		"history, another epoch":       {`{"id":5,"history":{"channel":"chat:1","limit":1,"since":{"offset":1,"epoch":"x"}}}`, 112},
		"unknown method":               {`{"id":5,"nonsense":{}}`, 104},
		"rpc":                          {`{"id":5,"rpc":{"method":"x"}}`, 108},
		"presence":                     {`{"id":5,"presence":{"channel":"chat:1"}}`, 108},
	} {
		raw := dialRaw(t, r)
		raw.connect("")
		raw.must(`{"id":2,"subscribe":{"channel":"chat:1"}}`)
		re, closed := raw.ask(bad.command)
		if closed != 0 || re.Error == nil || re.Error.Code != bad.code {
			t.Errorf("%s: closed with %d, error %v", name, closed, re.Error)
			continue
		}
		raw.must(`{"id":6,"history":{"channel":"chat:1"}}`) // the connection is in order
		raw.close()
	}

	// Answered with the end of the connection.
	connect := `{"id":1,"connect":{}}`
	for name, frames := range map[string][]string{
		"not JSON":                {connect, "nonsense"},
		"half a command":          {connect, `{"id":2,"subscribe":{"channel":"chat:1"`},
		"not an object":           {connect, `[1,2]`},
		"wrong types":             {connect, `{"id":"two","subscribe":{"channel":7}}`},
		"no id":                   {connect, `{"subscribe":{"channel":"chat:1"}}`},
		"invalid UTF-8":           {connect, "{\"id\":2,\"publish\":{\"channel\":\"open:1\",\"data\":\"\xff\xfe\"}}"},
		"raw NUL":                 {connect, "{\"id\":2,\"publish\":{\"channel\":\"open:1\",\"data\":\"a\x00b\"}}"},
		"connect twice":           {connect, `{"id":2,"connect":{}}`},
		"not connected":           {`{"id":1,"subscribe":{"channel":"chat:1"}}`},
		"nonsense first":          {"\x00\x01\x02"},
		"wrong token":             {`{"id":1,"connect":{"token":"nonsense"}}`},
		"token without signature": {`{"id":1,"connect":{"token":"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4ifQ."}}`},
		"another's token":         {fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, sign(t, "another-secret-0123456789-0123456", "ann", time.Minute))},
		"deep nesting":            {connect, `{"id":2,"publish":{"channel":"open:1","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}}`},
	} {
		raw := dialRaw(t, r)
		var re reply
		var closed websocket.StatusCode
		for _, frame := range frames {
			re, closed = raw.ask(frame)
		}
		if name == "deep nesting" && closed == 0 && re.Error != nil {
			continue
		}
		if closed < 3500 || closed > 3999 {
			t.Errorf("%s: closed with %d, %+v", name, closed, re)
		}
	}
	raw := dialRaw(t, r)
	raw.connect("")
	raw.send(websocket.MessageBinary, []byte(`{"id":2,"subscribe":{"channel":"chat:1"}}`))
	if _, code, err := raw.next(10 * time.Second); err != nil || code != 3501 {
		t.Errorf("a binary frame: closed with %d, %v", code, err)
	}
	// More than any command may be: WebSocket's own code.
	raw = dialRaw(t, r)
	raw.connect("")
	raw.send(text, []byte(fmt.Sprintf(`{"id":2,"publish":{"channel":"open:1","data":%q}}`, strings.Repeat("x", 80_000))))
	if _, code, err := raw.next(10 * time.Second); code != websocket.StatusMessageTooBig {
		t.Errorf("an oversized frame: closed with %d, %v", code, err)
	}
	// An expired token: the client is asked for a new one.
	raw = dialRaw(t, r)
	re, code := raw.ask(fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, sign(t, tokenSecret, "ann", -time.Minute)))
	if code != 0 || re.Error == nil || re.Error.Code != 109 {
		t.Errorf("an expired token: closed with %d, %+v", code, re)
	}
	connected := raw.connect(sign(t, tokenSecret, "ann", time.Minute)).Connect
	if !connected.Expires || connected.TTL < 50 || connected.TTL > 60 {
		t.Errorf("a token that ends: %+v", connected)
	}

	// What looks bad and is not.
	raw = dialRaw(t, r)
	raw.connect("")
	raw.must(`{"id":2,"subscribe":{"channel":"open:1"}}`)
	odd := `{"id":"odd \u0000 \u2028 \ud83d\ude00 <>&","n":1e400,"big":12345678901234567890.000}`
	raw.send(text, fmt.Appendf(nil, `{"id":3,"publish":{"channel":"open:1","data":%s}}`, odd))
	var got json.RawMessage
	for got == nil {
		re, _, err := raw.next(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if re.Push != nil && re.Push.Pub != nil {
			got = re.Push.Pub.Data
		}
	}
	if string(got) != odd {
		t.Errorf("%s became %s", odd, got)
	}

	book := newLedger()
	id, _ := book.mustPost(r, "chat:1")
	healthy.waitFor("chat:1", id, 10*time.Second)
	healthy.mu.Lock()
	defer healthy.mu.Unlock()
	if len(healthy.closes) > 1 || len(healthy.errors) > 0 {
		t.Errorf("another client noticed: %v %v", healthy.closes, healthy.errors)
	}
}

// sign makes a connection token.
func sign(t testing.TB, secret, user string, ttl time.Duration) string {
	t.Helper()
	return signed(secret, map[string]any{"sub": user, "exp": time.Now().Add(ttl).Unix()})
}

func TestBadInputOverAPI(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{env: []string{"FORGEWIRE_MAX_PUBLICATION_BYTES=65536"}})
	r := c.replicas[0]
	s := c.subscribe(0, "room:1")
	kept := r.mustPublish("room:1", body("kept"))
	for name, bad := range map[string]struct {
		method, body string
		code         int
	}{
		"not JSON":             {"publish", `nonsense`, 107},
		"nothing":              {"publish", ``, 107},
		"half":                 {"publish", `{"channel":"room:1","data":`, 107},
		"not an object":        {"publish", `[]`, 107},
		"two objects":          {"publish", `{"channel":"room:1","data":1}{"channel":"room:1","data":2}`, 107},
		"unknown field":        {"publish", `{"channel":"room:1","data":1,"chanel":"x"}`, 107},
		"wrong types":          {"publish", `{"channel":7,"data":1}`, 107},
		"no data":              {"publish", `{"channel":"room:1"}`, 107},
		"no channel":           {"publish", `{"data":1}`, 107},
		"empty channel":        {"publish", `{"channel":"","data":1}`, 107},
		"long channel":         {"publish", fmt.Sprintf(`{"channel":%q,"data":1}`, strings.Repeat("x", 256)), 107},
		"control character":    {"publish", `{"channel":"a\u0007","data":1}`, 107},
		"NUL in the channel":   {"publish", `{"channel":"a\u0000","data":1}`, 107},
		"not ASCII":            {"publish", `{"channel":"é","data":1}`, 107},
		"raw NUL":              {"publish", "{\"channel\":\"room:1\",\"data\":\"\x00\"}", 107},
		"invalid UTF-8":        {"publish", "{\"channel\":\"room:1\",\"data\":\"\xff\"}", 107},
		"deep nesting":         {"publish", `{"channel":"room:1","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, 107},
		"too large":            {"publish", fmt.Sprintf(`{"channel":"room:1","data":%q}`, strings.Repeat("x", 70_000)), 106},
		"far too large":        {"publish", fmt.Sprintf(`{"channel":"room:1","data":%q}`, strings.Repeat("x", 6<<20)), 106},
		"broadcast to nobody":  {"broadcast", `{"channels":[],"data":1}`, 107},
		"broadcast, one bad":   {"broadcast", `{"channels":["room:1",""],"data":{"id":"never"}}`, 107},
		"history, no channel":  {"history", `{}`, 107},
		"history, the future":  {"history", fmt.Sprintf(`{"channel":"room:1","limit":1,"since":{"offset":%d,"epoch":%q}}`, kept.Offset+1, kept.Epoch), 112},
		"history, far future":  {"history", fmt.Sprintf(`{"channel":"room:1","limit":1,"since":{"offset":%d,"epoch":%q}}`, veryFarOffset, kept.Epoch), 112},
		"history, retired":     {"history", fmt.Sprintf(`{"channel":"room:1","limit":1,"since":{"offset":7,"epoch":%q}}`, kept.Epoch), 112},
		"history, other epoch": {"history", fmt.Sprintf(`{"channel":"room:1","limit":1,"since":{"offset":%d,"epoch":"x"}}`, kept.Offset), 112},
		"history, no number":   {"history", `{"channel":"room:1","limit":1,"since":{"offset":-1,"epoch":"x"}}`, 107},
		"channels, bad":        {"channels", `{"pattern":"["}`, 107},
		"batch, not a list":    {"batch", `{"commands":7}`, 107},
	} {
		status, answer, err := r.post(t.Context(), bad.method, apiKey, []byte(bad.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var e struct {
			Error *apiError `json:"error"`
		}
		if err = json.Unmarshal(answer, &e); err != nil || e.Error == nil || e.Error.Code != bad.code || e.Error.Message == "" || status >= 500 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	for _, key := range []string{"", "wrong", apiKey + "x", apiKey[1:]} {
		if status, answer, err := r.post(t.Context(), "publish", key, []byte(`{"channel":"room:1","data":1}`)); err != nil || status != http.StatusUnauthorized {
			t.Errorf("key %q: %d %s %v", key, status, answer, err)
		}
	}
	if status, answer, err := r.post(t.Context(), "nonsense", apiKey, []byte(`{}`)); err != nil || status != http.StatusNotFound {
		t.Errorf("unknown method: %d %s %v", status, answer, err)
	}
	res, err := http.Get("http://" + r.addr + "/api/publish")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed && res.StatusCode != http.StatusUnauthorized {
		t.Errorf("GET: %s", res.Status)
	}
	// What looks bad and is not.
	odd := `{"id":"odd \u0000 \u2028","n":1e400,"lines":
		[1]}`
	if _, err = r.publish(t.Context(), "room:1", json.RawMessage(odd)); err != nil {
		t.Error(err)
	}
	id := idOf([]byte(odd))
	s.waitFor("room:1", id, 10*time.Second)
	if n := len(s.messages("room:1")); n != 2 {
		t.Errorf("it saw %d messages, not 2", n)
	}
}

// Configuration that cannot be right is refused at once, all of it, and never repeats a secret.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, options{url: "postgres://user:sesame@localhost:1/x", idle: true, env: []string{
		"FORGEWIRE_API_KEY=short", "FORGEWIRE_MAX_CONNECTIONS=many", "FORGEWIRE_NAMESPACES={"}})
	r := c.replicas[0]
	r.start()
	if err := r.wait(10 * time.Second); err == nil || err.Error() != "exit status 2" {
		t.Errorf("it ended with %v", err)
	}
	log := r.log.String()
	for _, want := range []string{"FORGEWIRE_API_KEY", "FORGEWIRE_MAX_CONNECTIONS"} {
		if !strings.Contains(log, want) {
			t.Errorf("%s is not named in %q", want, log)
		}
	}
	if strings.Contains(log, "sesame") || strings.Contains(log, "short\"") {
		t.Errorf("a secret is in %q", log)
	}
}
