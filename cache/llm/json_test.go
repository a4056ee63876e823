package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
)

func parse(t testing.TB, s string) node {
	t.Helper()
	n, err := parseJSON([]byte(s))
	if err != nil {
		t.Fatalf("parse %s: %v", s, err)
	}
	return n
}

func canonical(t testing.TB, s string) string {
	t.Helper()
	return string(parse(t, s).appendCanonical(nil, nil))
}

func TestCanonicalFormIsThatOfTheValue(t *testing.T) {
	same := [][]string{
		{`{"a":1,"b":[true,null]}`, `{"b" : [ true , null ] , "a" : 1.0}`, "\t{\"\\u0061\":10e-1,\"b\":[true,null]}\n"},
		{`1`, `1.0`, `1e0`, `10E-1`, `0.1e+1`, `1000e-3`}, {`0`, `-0`, `0.00`, `0e7`}, {`-1.50`, `-15e-1`},
		{`"é"`, `"\u00e9"`, `"\u00E9"`}, {`"😀"`, `"\ud83d\ude00"`}, {`"a/b"`, `"a\/b"`}, {`"\n"`, `"\u000a"`, `"\u000A"`},
		{`9007199254740993`, `9007199254740993.0`}, {`123456789012345678901234567890`}, {`9007199254740992`},
		{"\"e\u0301\""}, {`"É"`}, {`" é"`}, {`"\ud800"`}, {`"\ud801"`}, {`"\ud800x"`}, {`"\ufffd"`, "\"\uFFFD\""},
		{`null`}, {`{}`}, {`{"a":null}`}, {`{"a":{"b":null}}`}, {`{"a":{}}`}, {`[]`}, {`[null]`}, {`[[]]`}, {`""`}, {`"null"`}, {`false`},
		{`1e400`}, {`1e99999999999999999999`}, {`1e99999999999999999998`}, {`[1,2]`}, {`[12]`}, {`["a","b"]`}, {`["a\",\"b"]`},
	}
	seen := map[string]string{}
	for _, texts := range same {
		want := canonical(t, texts[0])
		if other, twice := seen[want]; twice {
			t.Errorf("%s and %s have one form: %s", other, texts[0], want)
		}
		seen[want] = texts[0]
		for _, text := range texts[1:] {
			if got := canonical(t, text); got != want {
				t.Errorf("%s: %s, want that of %s: %s", text, got, texts[0], want)
			}
		}
	}
}

func TestWhatReadersDisagreeAboutIsRefused(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2)
	many := make([]string, 40)
	for i := range many {
		many[i] = `"k` + strings.Repeat("x", i) + `":1`
	}
	for text, want := range map[string]error{
		`{"a":1,"a":2}`: errDuplicate, `{"a":1,"\u0061":2}`: errDuplicate, `[{"x":{"a":1,"b":2,"a":1}}]`: errDuplicate,
		"{" + strings.Join(many, ",") + `,"k":2}`: errDuplicate,
		deep: errTooDeep, "\"\xff\"": errNotUTF8, "": errNotJSON, "{": errNotJSON, `{"a":1}x`: errNotJSON,
		`{a:1}`: errNotJSON, `01`: errNotJSON, `NaN`: errNotJSON, `{"a":1,}`: errNotJSON, "\xef\xbb\xbf{}": errNotJSON,
	} {
		if _, err := parseJSON([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", text, err, want)
		}
	}
}

func TestEditLeavesTheRestAsItCame(t *testing.T) {
	n := parse(t, `{ "a" : 1.00, "model":"x", "b":"\u00e9" }`)
	if got := string(n.with("model", []byte(`"y"`))); got != `{"a":1.00,"model":"y","b":"\u00e9"}` {
		t.Error(got)
	}
	if got := string(n.with("model", nil)); got != `{"a":1.00,"b":"\u00e9"}` {
		t.Error(got)
	}
	if got := string(parse(t, `{}`).with("c", []byte(`[1]`))); got != `{"c":[1]}` {
		t.Error(got)
	}
}

func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.50,-3e+7,"x\ud83d\ude00\ud800",null,true,false,{}],"b":{"c":"\\\""}}`, `[]`, `"\u"`, `{"a":1,"a":2}`, ` 1 `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := parseJSON(text)
		if err != nil {
			return
		}
		c := n.appendCanonical(nil, nil)
		// The canonical form has commas behind the last elements; apart from that it is the same value.
		var want, got any
		decode(t, text, &want)
		decode(t, bytes.ReplaceAll(bytes.ReplaceAll(withoutStrings(c), []byte(",}"), []byte("}")), []byte(",]"), []byte("]")), &got)
		if !reflect.DeepEqual(shape(want), shape(got)) {
			t.Fatalf("%q became %q", text, c)
		}
		for _, m := range n.members {
			if s := quote(m.value.text()); m.value.kind == '"' && decodeString(s) != m.value.text() {
				t.Fatalf("%q became %q", m.value.raw, s)
			}
		}
	})
}

func decode(t *testing.T, text []byte, into *any) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
}

// withoutStrings empties strings, which shape does not look at, so that no comma in one is taken for ours.
func withoutStrings(b []byte) (out []byte) {
	in := false
	for i := 0; i < len(b); i++ {
		switch {
		case in && b[i] == '\\':
			i++
		case b[i] == '"':
			in = !in
			out = append(out, '"')
		case !in:
			out = append(out, b[i])
		}
	}
	return out
}

// shape is a value without its strings and names; numbers are exact.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return len(v) > 0
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = shape(v[i])
		}
		return out
	case string:
		return ""
	case json.Number:
		if f, ok := new(big.Float).SetPrec(1000).SetString(string(v)); ok {
			if f.Sign() == 0 {
				return "0"
			}
			return f.Text('g', 100)
		}
		return nil
	}
	return v
}
