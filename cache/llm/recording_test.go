package llm

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// The same answers as a stream and as an object, as OpenAI and its followers send them.
var answers = []struct {
	name   string
	e      endpoint
	object string
	events []string
}{
	{"text with usage", chat,
		`{"id":"c1","object":"chat.completion","created":1700000000,"model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":"Hé \"😀\"\n","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":9007199254740993,"total_tokens":4},"system_fingerprint":"fp"}`,
		[]string{
			`{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"m-1","system_fingerprint":"fp","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x"}`,
			`{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"m-1","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":"H\u00e9 \"\ud83d"},"logprobs":null,"finish_reason":null}],"usage":null}`,
			`{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"m-1","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":"\ude00\"\n"},"logprobs":null,"finish_reason":null}],"usage":null}`,
			`{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"m-1","system_fingerprint":"fp","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}`,
			`{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"m-1","system_fingerprint":"fp","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9007199254740993,"total_tokens":4}}`,
		}},
	{"tools, two choices, logprobs", chat,
		`{"id":"c2","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"t0","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"t1","type":"function","function":{"name":"g","arguments":"{}"}}]},"finish_reason":"tool_calls"},{"index":1,"message":{"role":"assistant","content":"no","reasoning_content":"well"},"logprobs":{"content":[{"token":"n","logprob":-0.10},{"token":"o","logprob":-1}],"refusal":null},"finish_reason":"stop"}]}`,
		[]string{
			`{"id":"c2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":1,"delta":{"role":"assistant","reasoning_content":"we"},"finish_reason":null}]}`,
			`{"id":"c2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"t0","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}`,
			`{"id":"c2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]},"finish_reason":null},{"index":1,"delta":{"reasoning_content":"ll"},"finish_reason":null}]}`,
			`{"id":"c2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"t1","type":"function","function":{"name":"g","arguments":"{}"}},{"index":0,"function":{"arguments":"1}"}}]},"finish_reason":null}]}`,
			`{"id":"c2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":1,"delta":{"content":"n"},"logprobs":{"content":[{"token":"n","logprob":-0.10}],"refusal":null},"finish_reason":null}]}`,
			`{"id":"c2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":1,"delta":{"content":"o"},"logprobs":{"content":[{"token":"o","logprob":-1}],"refusal":null},"finish_reason":"stop"}]}`,
			`{"id":"c2","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`,
		}},
	{"completion", completions,
		`{"id":"p1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"one two","logprobs":{"tokens":["one"," two"]},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
		[]string{
			`{"id":"p1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"one","logprobs":{"tokens":["one"]},"finish_reason":null}]}`,
			`{"id":"p1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" two","logprobs":{"tokens":[" two"]},"finish_reason":"stop"}]}`,
			`{"id":"p1","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
		}},
	{"response", responses,
		`{"id":"resp_1","object":"response","status":"completed","output":[{"type":"reasoning","id":"rs_1","summary":[]},{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hi","annotations":[]},{"type":"refusal","refusal":"no"}]},{"type":"function_call","id":"fc_1","call_id":"call_1","name":"f","arguments":"{}","status":"completed"}],"usage":{"input_tokens":5,"output_tokens":6}}`,
		[]string{
			`{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","status":"in_progress","output":[]}}`,
			`{"type":"response.output_text.delta","sequence_number":1,"item_id":"msg_1","output_index":1,"content_index":0,"delta":"Hi"}`,
			`{"type":"response.completed","sequence_number":2,"response":{"id":"resp_1","object":"response","status":"completed","output":[{"type":"reasoning","id":"rs_1","summary":[]},{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hi","annotations":[]},{"type":"refusal","refusal":"no"}]},{"type":"function_call","id":"fc_1","call_id":"call_1","name":"f","arguments":"{}","status":"completed"}],"usage":{"input_tokens":5,"output_tokens":6}}}`,
		}},
	{"embedding", embeddings, `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.10,-1e-9]}],"model":"e","usage":{"prompt_tokens":2,"total_tokens":2}}`, nil},
}

func eventsOf(texts []string) (out []event) {
	for _, s := range texts {
		out = append(out, event{data: []byte(s)})
	}
	return out
}

// value is JSON for comparing, with exact numbers, without members that are null: absent and null say the same.
func value(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return withoutNull(v)
}

func withoutNull(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, m := range v {
			if m == nil {
				delete(v, name)
			}
			withoutNull(m)
		}
	case []any:
		for _, m := range v {
			withoutNull(m)
		}
	}
	return v
}

func stored(t *testing.T, r *recording) *recording {
	t.Helper()
	b, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeRecording(b)
	if err != nil || !reflect.DeepEqual(again, r) {
		t.Fatalf("%v: %+v became %+v", err, r, again)
	}
	return again
}

func TestARecordingGivesTheSameAnswerInEachForm(t *testing.T) {
	for _, a := range answers {
		t.Run(a.name, func(t *testing.T) {
			whole := stored(t, &recording{recordingHead: recordingHead{Endpoint: a.e, ID: "x"}, object: []byte(a.object)})
			if got, err := whole.asObject(); err != nil || string(got) != a.object {
				t.Fatalf("the object is not what came: %s, %v", got, err)
			}
			if !isComplete(a.e, parse(t, a.object), 1) {
				t.Error("not complete")
			}
			if a.events == nil {
				return
			}
			want := value(t, []byte(a.object))
			streamed := stored(t, &recording{recordingHead: recordingHead{Endpoint: a.e, ID: "x"}, events: eventsOf(a.events)})
			got, err := streamed.asObject()
			if err != nil || !reflect.DeepEqual(value(t, got), want) {
				t.Errorf("the stream's object: %v\n%s\n%s", err, got, a.object)
			}
			events, err := streamed.asEvents(true)
			if err != nil {
				t.Fatal(err)
			}
			if a.e.hasUsageOption() {
				if string(events[len(events)-1].data) != "[DONE]" {
					t.Error("no [DONE]")
				}
				events = events[:len(events)-1]
			}
			for i := range events {
				if string(events[i].data) != a.events[i] {
					t.Errorf("event %d is not what came: %s", i, events[i].data)
				}
			}
			// And the object's stream, put together again.
			made, err := whole.asEvents(true)
			if err != nil {
				t.Fatal(err)
			}
			if a.e.hasUsageOption() {
				made = made[:len(made)-1]
			}
			again, err := assemble(a.e, made)
			if err != nil || !reflect.DeepEqual(value(t, again), want) {
				t.Errorf("the object as a stream: %v\n%s\n%s", err, again, a.object)
			}
		})
	}
}

func TestUsageComesOnlyWhereItIsAskedFor(t *testing.T) {
	for _, a := range answers[:3] {
		for _, r := range []*recording{{recordingHead: recordingHead{Endpoint: a.e}, events: eventsOf(a.events)}, {recordingHead: recordingHead{Endpoint: a.e}, object: []byte(a.object)}} {
			events, err := r.asEvents(false)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if strings.Contains(string(e.data), "usage") {
					t.Errorf("%s: %s", a.name, e.data)
				}
			}
			if last := string(events[len(events)-1].data); last != "[DONE]" {
				t.Error(last)
			}
		}
	}
	// A chunk that has its usage beside a choice is one that the client would get anyway.
	e, ok := withUsage(event{data: []byte(`{"choices":[{}],"usage":{"prompt_tokens":1}}`)}, false)
	if !ok || !strings.Contains(string(e.data), "usage") {
		t.Error(string(e.data))
	}
}

// TestNullUsageIsLeftOutAsByParsing: the quick way says what the other one does, or nothing.
func TestNullUsageIsLeftOutAsByParsing(t *testing.T) {
	for _, text := range []string{
		`{"id":"c","choices":[],"usage":null}`, `{"usage":null,"id":"c"}`, `{"id":"c","usage":null,"obfuscation":"x"}`, `{"usage":null}`,
		`{"id":"c", "usage":null}`, `{"id":"c","usage": null}`, `{"id":"c","x":{"usage":null,"y":1}}`, `{"id":"c","x":[{"y":1,"usage":null}],"usage":null}`,
		`{"text":"say ,\"usage\":null,","usage":null}`, `{"text":"say ,\"usage\":null,"}`, `{"a":"\\","usage":null,"b":"\"usage\":null"}`,
		`{"id":"c","usage":nullx`, `{"id":"c","usage":{"prompt_tokens":1}}`, `{"a":"usage","b":null}`, `{"a":"}","usage":null}`, `"usage":null`, `["usage",null]`,
	} {
		quick := withoutNullUsage([]byte(text))
		n, err := parseJSON([]byte(text))
		if quick == nil {
			if strings.HasSuffix(text, `,"usage":null}`) {
				t.Errorf("%s: the slow way", text)
			}
			continue
		}
		if want := string(n.with("usage", nil)); err != nil || string(quick) != want {
			t.Errorf("%s: %s, not %s, %v", text, quick, want, err)
		}
	}
}

func TestOnlyWhatIsCompleteIsStored(t *testing.T) {
	choice := func(s string) string { return `{"choices":[` + s + `]}` }
	for _, c := range []struct {
		e    endpoint
		text string
		n    int64
		want bool
	}{
		{chat, choice(`{"finish_reason":"stop","message":{"content":"a"}}`), 1, true},
		{chat, choice(`{"finish_reason":"stop","message":{"content":"a"}}`), 2, false},
		{chat, choice(`{"finish_reason":"length","message":{"content":"a"}}`), 1, false},
		{chat, choice(`{"finish_reason":"content_filter","message":{"content":"a"}}`), 1, false},
		{chat, choice(`{"finish_reason":null,"message":{"content":"a"}}`), 1, false},
		{chat, choice(`{"finish_reason":"stop"},{"finish_reason":"length"}`), 1, false},
		{chat, choice(`{"finish_reason":"tool_calls","message":{"tool_calls":[{"function":{"name":"f","arguments":"{\"a\":"}}]}}`), 1, false},
		{chat, choice(`{"finish_reason":"tool_calls","message":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}`), 1, true},
		{chat, choice(`{"finish_reason":"function_call","message":{"function_call":{"name":"f","arguments":""}}}`), 1, false},
		{chat, choice(``), 1, false},
		{chat, `{"error":{"message":"x"}}`, 1, false},
		{chat, `{"error":null,"choices":[{"finish_reason":"stop"}]}`, 1, true},
		{chat, `[]`, 1, false},
		{responses, `{"status":"completed","output":[]}`, 1, true},
		{responses, `{"status":"incomplete","output":[]}`, 1, false},
		{responses, `{"status":"queued"}`, 1, false},
		{responses, `{"status":"completed","output":[{"type":"function_call","arguments":"{"}]}`, 1, false},
		{embeddings, `{"data":[]}`, 1, false},
		{embeddings, `{"data":[{}],"error":{}}`, 1, false},
	} {
		if got := isComplete(c.e, parse(t, c.text), c.n); got != c.want {
			t.Errorf("%s: %v", c.text, got)
		}
	}
}

func TestRepeatedNamesAreNotJoined(t *testing.T) {
	got, err := assemble(chat, eventsOf([]string{
		`{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":"{"}}]}}]}`,
		`{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":"}"}}]},"finish_reason":"tool_calls"}]}`,
	}))
	want := `{"id":"a","choices":[{"index":0,"message":{"role":"assistant","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}],"content":null},"finish_reason":"tool_calls"}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	// As Azure has it: the verdict on each piece is the same again.
	got, err = assemble(chat, eventsOf([]string{
		`{"id":"a","choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}`,
		`{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":"He"},"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"finish_reason":null}]}`,
		`{"id":"a","choices":[{"index":0,"delta":{"content":"y"},"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"low"}},"finish_reason":null}]}`,
		`{"id":"a","choices":[{"index":0,"delta":{},"content_filter_results":{"violence":{"filtered":false,"severity":"safe"}},"finish_reason":"stop"}]}`,
	}))
	want = `{"id":"a","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}],"choices":[{"index":0,"message":{"role":"assistant","content":"Hey"},` +
		`"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}},"finish_reason":"stop"}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range [][]string{{`{"a":`}, {`[]`}, {`{"choices":[]}`}, {`{"choices":{}}`}, {}} {
		if got, err := assemble(chat, eventsOf(bad)); err == nil {
			t.Errorf("%q became %s", bad, got)
		}
	}
}

func FuzzDecodeRecording(f *testing.F) {
	for _, a := range answers {
		b, err := (&recording{recordingHead: recordingHead{Endpoint: a.e}, object: []byte(a.object)}).encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		if b, err = (&recording{recordingHead: recordingHead{Endpoint: a.e}, events: eventsOf(a.events)}).encode(); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecording(b)
		if err != nil {
			return
		}
		_, _ = r.asObject()
		_, _ = r.asEvents(false)
		_, _ = r.asEvents(true)
	})
}

func FuzzAssemble(f *testing.F) {
	for _, a := range answers {
		f.Add(string(a.e), strings.Join(a.events, "\n"))
		f.Add(string(a.e), a.object)
	}
	f.Fuzz(func(t *testing.T, e, text string) {
		b, err := assemble(endpoint(e), eventsOf(strings.Split(text, "\n")))
		if err == nil && !json.Valid(b) {
			t.Fatalf("%q became %q", text, b)
		}
		if n, err := parseJSON([]byte(text)); err == nil {
			isComplete(endpoint(e), n, 1)
			for _, ev := range split(endpoint(e), n) {
				if !json.Valid(ev.data) {
					t.Fatalf("%q became %q", text, ev.data)
				}
			}
		}
	})
}
