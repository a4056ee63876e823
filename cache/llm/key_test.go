package llm

import (
	"strings"
	"testing"
)

func TestKeyCoversAllThatCanChangeAnAnswer(t *testing.T) {
	base := `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"Hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}],"seed":9007199254740993,"tools":[{"type":"function","function":{"name":"f","parameters":{"b":null,"a":{}}}}]}`
	k := keyOf("tenant", "route", chat, parse(t, base))
	for name, same := range map[string]string{
		"order and space": `{ "seed":9007199254740993, "tools":[{"function":{"parameters":{"a":{},"b":null},"name":"f"},"type":"function"}], "messages":[{"content":[{"text":"Hi","type":"text"},{"image_url":{"url":"data:image\/png;base64,AA=="},"type":"image_url"}],"role":"user"}], "model":"m"}`,
		"escapes":         strings.Replace(base, "Hi", `\u0048i`, 1),
		"unkeyed":         strings.Replace(base, "{", `{"stream":true,"stream_options":{"include_usage":true},"user":"u","metadata":{"a":"b"},`, 1),
	} {
		if keyOf("tenant", "route", chat, parse(t, same)) != k {
			t.Errorf("%s: another key", name)
		}
	}
	others := map[string]string{
		"case": strings.Replace(base, "Hi", "hi", 1), "space": strings.Replace(base, "Hi", "Hi ", 1), "number": strings.Replace(base, "993", "992", 1),
		"null": strings.Replace(base, `"b":null,`, "", 1), "unknown field": strings.Replace(base, "{", `{"new":1,`, 1),
		"image": strings.Replace(base, "AA==", "AB==", 1), "tool": strings.Replace(base, `"name":"f"`, `"name":"g"`, 1),
		"order of parts": strings.Replace(base, `{"type":"text","text":"Hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}`, `{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}},{"type":"text","text":"Hi"}`, 1),
		// Only the request's own field stream is not in the key.
		"nested unkeyed name": strings.Replace(base, `"a":{}`, `"a":{"user":1}`, 1),
	}
	seen := map[key]string{k: "base"}
	for name, text := range others {
		o := keyOf("tenant", "route", chat, parse(t, text))
		if was, twice := seen[o]; twice {
			t.Errorf("%s has the key of %s", name, was)
		}
		seen[o] = name
	}
	n := parse(t, base)
	for _, o := range []key{keyOf("other", "route", chat, n), keyOf("tenant", "other", chat, n), keyOf("tenant", "route", responses, n), keyOf("tenantr", "oute", chat, n)} {
		if was, twice := seen[o]; twice {
			t.Errorf("has the key of %s", was)
		}
		seen[o] = "another scope, route or endpoint"
	}
}

func FuzzKey(f *testing.F) {
	f.Add(`{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":0.10}`)
	f.Add(`{"a":"\ud800","b":[1e5,{}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseJSON([]byte(text))
		if err != nil || n.kind != '{' {
			return
		}
		k := keyOf("t", "r", chat, n)
		// An edit that changes nothing, and fields that are not in the key, leave it alone.
		again := parse(t, string(n.with("stream", []byte("true"))))
		if keyOf("t", "r", chat, again) != k {
			t.Fatalf("another key for %q", text)
		}
		if keyOf("t", "r", chat, parse(t, string(n.with("\x00new", []byte("1"))))) == k {
			t.Fatalf("the same key for %q and more", text)
		}
	})
}
