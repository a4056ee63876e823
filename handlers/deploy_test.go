package handlers_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"forgewire/cache"
	"forgewire/handlers"
	"forgewire/infra/memory"
)

// metricName matches what may be a metric in an expression of Prometheus.
var metricName = regexp.MustCompile(`\b(forgewire|go|process)_[a-z0-9_]+`)

// dashboardExprs reads the expressions of Grafana's dashboard, which must be whole.
func dashboardExprs(t *testing.T) (exprs []string) {
	t.Helper()
	var d struct {
		UID        string
		Title      string
		Templating struct {
			List []struct{ Name, Query string }
		}
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(must(os.ReadFile("../infra/deploy/grafana/dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	ids, at := map[int]bool{}, map[[2]int]bool{}
	for _, p := range d.Panels {
		place := [2]int{p.GridPos.X, p.GridPos.Y}
		if ids[p.ID] || at[place] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: its id or place is another's, or it is empty", p.ID, p.Title)
		}
		ids[p.ID], at[place] = true, true
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		exprs = append(exprs, v.Query)
	}
	if d.UID != "forgewire" || len(exprs) < 30 {
		t.Errorf("%q has %d expressions", d.Title, len(exprs))
	}
	return exprs
}

// alertExprs reads the expressions of the alerts, each of which must say what it means and what to do.
func alertExprs(t *testing.T) (exprs []string) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(must(os.ReadFile("../infra/deploy/prometheus/alerts.yml")))))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Expr == "" || seen[r.Alert] || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["action"] == "" {
				t.Errorf("alert %q is not whole, or there twice", r.Alert)
			}
			seen[r.Alert] = true
			exprs = append(exprs, r.Expr)
		}
	}
	if len(exprs) < 10 {
		t.Errorf("%d alerts", len(exprs))
	}
	return exprs
}

// Every metric that the dashboard and the alerts name is one that a replica has.
func TestDashboardAndAlertsNameWhatExists(t *testing.T) {
	t.Parallel()
	governor := must(memory.New(memory.Config{Logger: slog.New(slog.DiscardHandler),
		Limit: func() (uint64, error) { return 1 << 30, nil }, Used: func() (uint64, error) { return 1, nil }}))
	c := newCluster(t, func(cfg *handlers.Config) {
		cfg.Memory = governor
		cfg.Cache = must(cache.New(cache.Config{LocalBytes: 1 << 20, Log: cfg.Logger}))
		cfg.LLM = newModels(cfg.Pools["requests"], cfg.Cache)
	})
	c.connect(t, 0, "alice", "a")
	c.call(t, 0, "disconnect", `{"user":"alice"}`) // so that there is a code to count by
	c.call(t, 0, "publish", `{"channel":"a","data":1}`)
	have := map[string]bool{}
	eventually(t, "the disconnect is counted, and the queue was looked into", func() bool {
		_, body := c.request(t, 0, http.MethodGet, "/metrics", apiKey, "")
		for line := range strings.Lines(body) {
			if name := metricName.FindString(line); name != "" && !strings.HasPrefix(line, "#") {
				have[name] = true
			}
		}
		return have["forgewire_client_num_server_disconnects"] && have["forgewire_evaluations_waiting"]
	})
	have["forgewire_log_connected"] = true // only where there are several logs: TestSeveralLogs looks
	for _, expr := range append(dashboardExprs(t), alertExprs(t)...) {
		if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
			t.Errorf("brackets do not match: %s", expr)
		}
		for _, name := range metricName.FindAllString(expr, -1) {
			if !have[name] {
				t.Errorf("there is no %s: %s", name, expr)
			}
		}
	}
}
