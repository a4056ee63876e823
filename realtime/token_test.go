package realtime

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseNamespaces(t *testing.T) {
	for _, c := range []struct{ name, text, wrong string }{
		{"nothing", "", ""},
		{"one", `{"namespaces":[{"name":"chat","allow_publish_for_client":true}],"without_namespace":{"allow_publish_for_subscriber":true}}`, ""},
		{"misspelt", "{\n\"namespaces\":[{\"name\":\"chat\",\n\"allow_publish\":true}]}", "allow_publish"},
		{"a line", "{\n\n\"namespaces\":3}", "line 3"},
		{"twice", `{"namespaces":[{"name":"a"},{"name":"a"}]}`, "twice"},
		{"no name", `{"namespaces":[{}]}`, "not a name"},
		{"a colon", `{"namespaces":[{"name":"a:b"}]}`, "not a name"},
		{"the operator's", `{"namespaces":[{"name":"` + OperatorNamespace + `"}]}`, "belongs to the server"},
		{"rest", "{}\n{}", "line 2: something follows"},
		{"an unknown key's line", "{\n\"namespaces\":[\n{\"name\":\"a\"},\n{\"name\":\"b\",\"histroy_size\":3}]}", "line 4"},
		{"ephemeral with history", "{\n\"namespaces\":[\n{\"name\":\"a\",\"ephemeral\":true,\"history_size\":3}]}", `line 3: "a": ephemeral channels have no history`},
		{"ephemeral with a last message", `{"namespaces":[{"name":"a","ephemeral":true,"cache_channel":true}]}`, "no last message"},
		{"ephemeral with deltas", `{"namespaces":[{"name":"a","ephemeral":true,"delta":true}]}`, "no deltas"},
		{"cached without recovery", `{"namespaces":[{"name":"a","cache_channel":true,"recovery":false}]}`, "is recovered"},
		{"less than no history", `{"namespaces":[{"name":"a","history_size":-1}]}`, "cannot be negative"},
		{"joins without presence", "{\n\n\"without_namespace\":{\"join_leave\":true}}", "line 3: without_namespace: join_leave needs presence"},
		{"no file", "/does/not/exist", "no such file"},
		{"not JSON", "{", "unexpected EOF"},
	} {
		n, err := ParseNamespaces(c.text)
		switch {
		case c.wrong == "" && err != nil, c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v", c.name, err)
		case c.name == "one" && (!n.of("chat:1").AllowPublishForClient || n.of("other:1").AllowPublishForClient || !n.of("plain").AllowPublishForSubscriber):
			t.Errorf("%s: %+v", c.name, n)
		}
	}
}

func TestCompact(t *testing.T) {
	for in, want := range map[string]string{
		"{\n \"a\":\t1 }\r\n":          `{"a":1}`,
		`{"big":12345678901234567890}`: `{"big":12345678901234567890}`,
		`{"a":1,"a":2}`:                `{"a":1,"a":2}`,
		`"\u0000"`:                     `"\u0000"`,
		"":                             "",
		"{":                            "",
		"\"\x00\"":                     "",
		"\"\xff\"":                     "",
		"1 2":                          "",
	} {
		got, why := compact([]byte(in))
		if string(got) != want || (want == "") != (why != "") || want != "" && !json.Valid(got) {
			t.Errorf("%q became %q, %s", in, got, why)
		}
	}
}
