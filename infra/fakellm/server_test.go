package fakellm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, b map[string]Behaviour) *Server {
	t.Helper()
	s, err := Start(Config{Behaviours: b, Key: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Cleanup(s.Close)
	return s
}

func post(ctx context.Context, t *testing.T, s *Server, path, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	return http.DefaultClient.Do(req)
}

func ask(t *testing.T, s *Server, path, body string) (int, string) {
	t.Helper()
	res, err := post(t.Context(), t, s, path, body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, string(b) + " " + err.Error()
	}
	return res.StatusCode, string(b)
}

func TestAnswers(t *testing.T) {
	s := start(t, map[string]Behaviour{"m": {Tokens: 4}})
	for path, body := range map[string]string{
		"/chat/completions": `{"model":"m","messages":[{"role":"user","content":"hi"}]`,
		"/responses":        `{"model":"m","input":"hi"`,
		"/completions":      `{"model":"m","prompt":"hi"`,
	} {
		status, plain := ask(t, s, path, body+`}`)
		if status != http.StatusOK || !json.Valid([]byte(plain)) || !strings.Contains(plain, Mark("hi")+" nonce:") || !strings.Contains(plain, " 1 2 3") {
			t.Errorf("%s: %d %s", path, status, plain)
		}
		status, streamed := ask(t, s, path, body+`,"stream":true,"stream_options":{"include_usage":true}}`)
		if status != http.StatusOK {
			t.Errorf("%s, streamed: %d", path, status)
		}
		at := 0
		for _, token := range []string{Mark("hi"), `" 1"`, `" 2"`, `" 3"`, "total_tokens"} {
			next := strings.Index(streamed[at:], token)
			if next < 0 {
				t.Errorf("%s, streamed: no %s in its place in %s", path, token, streamed)
				break
			}
			at += next
		}
	}
	_, one := ask(t, s, "/chat/completions", `{"model":"m","messages":[]}`)
	_, two := ask(t, s, "/chat/completions", `{"model":"m","messages":[]}`)
	if one == two {
		t.Error("two answers are the same: a false hit would not show")
	}
	s.Set("m", Behaviour{Fixed: true})
	same := func() string {
		_, body := ask(t, s, "/completions", `{"model":"m","prompt":"x","stream":true}`)
		return textOnly(body)
	}
	if one, two = same(), same(); one != two || !strings.Contains(one, "nonce:fixed") {
		t.Errorf("a fixed answer changes from %s to %s", one, two)
	}
	s.Set("m", Behaviour{})
	if s.Count("m") != 10 || s.Repeated() != 2 {
		t.Errorf("%d calls, %d repeated", s.Count("m"), s.Repeated())
	}
}

// textOnly is what a stream of completions says.
func textOnly(body string) string {
	var out string
	for line := range strings.Lines(body) {
		_, text, _ := strings.Cut(line, `"text":"`)
		text, _, _ = strings.Cut(text, `"`)
		out += text
	}
	return out
}

func TestForms(t *testing.T) {
	s := start(t, map[string]Behaviour{"m": {}})
	const tools = `"tools":[{"type":"function","function":{"name":"weather","parameters":{"properties":{"city":{"type":"string"}}}}}]`
	for name, c := range map[string]struct{ path, body, want string }{
		"tool":        {"/chat/completions", `{"model":"m","messages":[{"role":"user","content":"x"}],` + tools + `}`, `"finish_reason":"tool_calls"`},
		"tool result": {"/chat/completions", `{"model":"m","messages":[{"role":"tool","content":"x"}],` + tools + `}`, `"finish_reason":"stop"`},
		"JSON":        {"/chat/completions", `{"model":"m","messages":[],"response_format":{"type":"json_object"}}`, `12345678901234567890`},
		"choices":     {"/chat/completions", `{"model":"m","messages":[],"n":2}`, `"index":1`},
		"function":    {"/responses", `{"model":"m","input":"x","tools":[{"type":"function","name":"weather"}]}`, `"function_call"`},
		"embedding":   {"/embeddings", `{"model":"m","input":["a","b"]}`, `"index":1`},
		"base64":      {"/embeddings", `{"model":"m","input":"a","encoding_format":"base64"}`, `"embedding":"`},
		"no model":    {"/chat/completions", `{"model":"x"}`, "model_not_found"},
		"no JSON":     {"/chat/completions", `{`, "could not parse"},
	} {
		if _, got := ask(t, s, c.path, c.body); !strings.Contains(got, c.want) {
			t.Errorf("%s: no %s in %s", name, c.want, got)
		}
	}
	res, err := http.Get(s.URL() + "/models")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); !strings.Contains(string(b), `"id":"m"`) {
		t.Errorf("models: %s", b)
	}
}

func TestFaults(t *testing.T) {
	const body = `{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}`
	for fault, want := range map[Fault]string{
		Cut: "unexpected EOF", HalfEvent: "completion.ch", InvalidUTF8: "\xff", BadJSON: `,,`, ErrorEvent: `"error"`,
		ErrorIn200: `"error"`, HTML: "<html>", BigChunk: strings.Repeat("x", BigSize), Odd: "\r\n\r\n",
		TooMany: "told to fail", NoDone: `"finish_reason":"stop"`, NoFinish: "[DONE]",
	} {
		s := start(t, map[string]Behaviour{"m": {Fault: fault, After: 2}})
		status, got := ask(t, s, "/chat/completions", body)
		if !strings.Contains(got, want) || (status != http.StatusOK) != (fault == TooMany) {
			t.Errorf("fault %d: %d %.300s", fault, status, got)
		}
		if fault == NoDone && strings.Contains(got, "[DONE]") || fault == NoFinish && strings.Contains(got, `"stop"`) {
			t.Errorf("fault %d is none: %s", fault, got)
		}
	}
}

func TestFaultEnds(t *testing.T) {
	s := start(t, map[string]Behaviour{"m": {Fault: TooMany, Times: 2, RetryAfter: "3"}})
	for _, want := range []int{429, 429, 200} {
		res, err := post(t.Context(), t, s, "/chat/completions", `{"model":"m"}`)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want || want == 429 && res.Header.Get("Retry-After") != "3" {
			t.Errorf("%d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
		}
	}
}

func TestHang(t *testing.T) {
	for _, f := range []Fault{Hang, Stall} {
		s := start(t, map[string]Behaviour{"m": {Fault: f}})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		res, err := post(ctx, t, s, "/chat/completions", `{"model":"m","stream":true}`)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("fault %d: %v", f, err)
		}
		cancel()
	}
}

func TestHoldAndStamps(t *testing.T) {
	hold := make(chan struct{})
	s := start(t, map[string]Behaviour{"m": {Hold: hold, After: 2, Stamped: true}})
	res, err := post(t.Context(), t, s, "/completions", `{"model":"m","prompt":"x","stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	stamps := 0
	for lines.Scan() {
		var event struct {
			Choices []struct{ Text string }
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(lines.Text(), "data: ")), &event); err != nil || len(event.Choices) == 0 {
			continue
		}
		if at, ok := Stamp(event.Choices[0].Text); ok {
			if since := time.Since(at); since < 0 || since > time.Minute {
				t.Errorf("stamped %v ago", since)
			}
			if stamps++; stamps == 2 {
				if s.Active() != 1 {
					t.Errorf("%d are under way", s.Active())
				}
				close(hold) // the rest comes only now
			}
		}
	}
	if stamps != 10 {
		t.Errorf("%d tokens came", stamps)
	}
	if c := s.Calls("m"); len(c) != 1 || !c[0].Stream || c[0].Path != "/v1/completions" {
		t.Errorf("calls: %+v", c)
	}
}
