package deploy

import (
	"encoding/json"
	"regexp"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// labelValues is how a variable of Grafana asks for a label's values.
var labelValues = regexp.MustCompile(`^label_values\((.+), \w+\)$`)

// Prometheus takes every expression of the alerts and of the dashboard.
func TestExpressions(t *testing.T) {
	promQL := parser.NewParser(parser.Options{})
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "infra/deploy/prometheus/alerts.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Templating struct {
			List []struct{ Query string }
		}
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "infra/deploy/grafana/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	parsed := 0
	parse := func(what, expr string) {
		t.Helper()
		if _, err := promQL.ParseExpr(expr); err != nil { // the dashboard's variables stand in strings alone
			t.Errorf("%s: %s: %v", what, expr, err)
		}
		parsed++
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			parse(r.Alert, r.Expr)
		}
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			parse(p.Title, target.Expr)
		}
	}
	for _, v := range dashboard.Templating.List {
		asked := labelValues.FindStringSubmatch(v.Query)
		if asked == nil {
			t.Errorf("%s asks for no label's values", v.Query)
			continue
		}
		parse("a variable", asked[1])
	}
	if parsed < 50 {
		t.Errorf("only %d expressions", parsed)
	}
}
