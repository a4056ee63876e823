package llm

import "testing"

func TestModelsOfACaller(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		patterns []string
		model    string
		allowed  bool
	}{
		{nil, "gpt-4o", true},
		{[]string{"gpt-4o"}, "gpt-4o", true},
		{[]string{"gpt-4o"}, "gpt-4o-mini", false},
		{[]string{"gpt-4o"}, "", false},
		{[]string{"o3", "gpt-*"}, "gpt-4o", true},
		{[]string{"gpt-*"}, "gpt-", true},
		{[]string{"gpt-*"}, "my-gpt-4", false},
		{[]string{"*-mini"}, "gpt-4o-mini", true},
		{[]string{"*-mini"}, "gpt-4o-mini-high", false},
		{[]string{"meta/*"}, "meta/llama/3", true},
		{[]string{"a*b*c"}, "abc", true},
		{[]string{"a*b*c"}, "a-b-b-c", true},
		{[]string{"a*b*c"}, "ac", false},
		{[]string{"a*b*c"}, "a-c-b", false},
		{[]string{"ab*ba"}, "aba", false},
		{[]string{"*"}, "", true},
		{[]string{"**"}, "x", true},
		{[]string{"gpt-[4]"}, "gpt-4", false},
		{[]string{"gpt-?"}, "gpt-4", false},
		{[]string{""}, "gpt-4", false},
	} {
		if got := (Caller{Models: c.patterns}).allows(c.model); got != c.allowed {
			t.Errorf("%q, %q: %v", c.patterns, c.model, got)
		}
	}
}
