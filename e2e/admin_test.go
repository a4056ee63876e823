package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// adminSteps is how many things the script finds right.
const adminSteps = 25

// The dashboard in a real browser, wide and narrow, on figures of two replicas that really work.
func TestAdminPage(t *testing.T) {
	heavy(t)
	browser := chromium(t)
	model := httptest.NewServer(http.HandlerFunc(answerSlowly))
	defer model.Close()
	upstreams, err := json.Marshal(map[string]any{"upstreams": []any{map[string]any{"name": "fake", "url": model.URL + "/v1", "key": "none",
		"prices": map[string]any{"small": map[string]any{"input": 2, "output": 10}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, width := range widths(1280) {
		t.Run(strconv.Itoa(width), func(t *testing.T) {
			const password = "the password of the test"
			url, key := startDev(t, "FORGEWIRE_ADMIN_PASSWORD="+password, "FORGEWIRE_UPSTREAMS="+string(upstreams))
			env := []string{"URL=" + url, "API_KEY=" + key, "PASSWORD=" + password, "CHROMIUM=" + browser, "WIDTH=" + strconv.Itoa(width)}
			if dir := os.Getenv("SHOTS"); dir != "" {
				env = append(env, "SHOT="+filepath.Join(dir, "admin-"+strconv.Itoa(width)))
			}
			out := node(t, "node/admin.mjs", env...)
			if n := strings.Count(out, "ok   "); n != adminSteps {
				t.Errorf("%d of %d are ok:\n%s", n, adminSteps, out)
			}
		})
	}
}

// answerSlowly is a model that takes long enough to be among the slow requests.
func answerSlowly(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(300 * time.Millisecond):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"small","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],
		"usage":{"prompt_tokens":1200,"completion_tokens":300,"total_tokens":1500}}`)
}
