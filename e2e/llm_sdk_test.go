package e2e

import (
	"strings"
	"testing"
	"time"

	"forgewire/infra/fakellm"
)

// sdkModels is how the models behave that the SDKs' tests ask for.
func sdkModels() map[string]fakellm.Behaviour {
	return map[string]fakellm.Behaviour{
		"m":       {Tokens: 10},
		"paced":   {Tokens: 40, Interval: 20 * time.Millisecond},
		"slow":    {Tokens: 400, Interval: 50 * time.Millisecond},
		"busy":    {Fault: fakellm.TooMany, Times: 2, RetryAfter: "0"},
		"broken":  {Fault: fakellm.ServerError},
		"refuses": {Fault: fakellm.BadRequest},
		"breaks":  {Fault: fakellm.ErrorEvent, After: 3},
	}
}

// The published JavaScript SDK runs unchanged.
func TestLLMNodeSDK(t *testing.T) {
	t.Parallel()
	t.Run("the model alone", func(t *testing.T) {
		m := newModel(t, sdkModels())
		nodeSDK(t, 9, "A="+m.URL(), "B="+m.URL(), "API_KEY="+modelKey)
	})
	t.Run("through Forgewire", func(t *testing.T) {
		c := newLLM(t, nil, sdkModels())
		nodeSDK(t, 11, "A=http://"+c.replicas[0].addr+"/v1", "B=http://"+c.replicas[1].addr+"/v1", "API_KEY="+apiKey, "FORGEWIRE=1")
	})
}

func nodeSDK(t *testing.T, tests int, env ...string) {
	t.Helper()
	out := node(t, "node/openai.mjs", env...)
	if n := strings.Count(out, "ok   "); n != tests {
		t.Errorf("%d of %d are ok:\n%s", n, tests, out)
	}
}
