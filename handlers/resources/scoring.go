package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"forgewire/handlers/problem"
)

const (
	maxPattern = 1000     // bytes of a regular expression
	maxSchema  = 64 << 10 // bytes
)

// Scoring says how an answer becomes a score from 0 to 1.
type Scoring struct {
	Type       string          `json:"type" api:"required"` // exact, regex, json_schema, judge
	IgnoreCase bool            `json:"ignore_case,omitempty"`
	Pattern    string          `json:"pattern,omitempty"`   // regex: RE2
	Schema     json.RawMessage `json:"schema,omitempty"`    // json_schema
	Model      string          `json:"model,omitempty"`     // judge; else the evaluation's
	Template   string          `json:"template,omitempty"`  // judge: with {{output}}, and {{expected}} if it wants
	Threshold  *float64        `json:"threshold,omitempty"` // from which score on a case has passed; else 1, of a judge 0.5
}

// scorer scores answers. score is nil where a judge is asked.
type scorer struct {
	Scoring
	passes    float64
	score     func(output string, expected *string) (float64, error)
	variables []string // of the judge's template
}

var errNothingExpected = errors.New("nothing_expected")

// newScorer checks what was asked for. Regular expressions are RE2, also those of a schema: they take time in
// proportion to the text, whatever they are.
func newScorer(s Scoring) (*scorer, error) {
	sc := &scorer{Scoring: s, passes: 1}
	if s.Type == "judge" {
		sc.passes = 0.5
	}
	if s.Threshold != nil {
		if sc.passes = *s.Threshold; !(sc.passes > 0 && sc.passes <= 1) {
			return nil, badScoring("threshold", "a threshold is above 0 and at most 1")
		}
	}
	switch s.Type {
	case "exact":
		sc.score = sc.exact
	case "regex":
		if s.Pattern == "" || len(s.Pattern) > maxPattern {
			return nil, badScoring("pattern", fmt.Sprintf("a pattern has 1 to %d bytes", maxPattern))
		}
		pattern := s.Pattern
		if s.IgnoreCase {
			pattern = "(?i)" + pattern
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, badScoring("pattern", "the pattern is not a regular expression of RE2")
		}
		sc.score = func(output string, _ *string) (float64, error) { return oneIf(re.MatchString(output)), nil }
	case "json_schema":
		schema, err := compileSchema(s.Schema)
		if err != nil {
			return nil, err
		}
		sc.score = func(output string, _ *string) (float64, error) {
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(output))
			return oneIf(err == nil && schema.Validate(v) == nil), nil
		}
	case "judge":
		var err error
		if sc.variables, err = variablesOf(s.Template); err != nil {
			return nil, badScoring("template", "a judge's template is one as prompts have it")
		}
		others := slices.DeleteFunc(slices.Clone(sc.variables), func(v string) bool { return v == "output" || v == "expected" })
		if len(others) > 0 || !slices.Contains(sc.variables, "output") {
			return nil, badScoring("template", "a judge's template has {{output}}, and {{expected}} if it wants, and no other variable")
		}
	default:
		return nil, badScoring("type", "scoring is exact, regex, json_schema or judge")
	}
	return sc, nil
}

func badScoring(field, why string) error {
	return problem.Bad("invalid_scoring", "scoring."+field, why)
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (s *scorer) exact(output string, expected *string) (float64, error) {
	if expected == nil {
		return 0, errNothingExpected
	}
	got, want := strings.TrimSpace(output), strings.TrimSpace(*expected)
	return oneIf(got == want || s.IgnoreCase && strings.EqualFold(got, want)), nil
}

// compileSchema fetches nothing: a schema refers to itself, or to what everybody knows.
func compileSchema(raw json.RawMessage) (*jsonschema.Schema, error) {
	if len(raw) == 0 || len(raw) > maxSchema {
		return nil, badScoring("schema", fmt.Sprintf("a schema has 1 to %d bytes", maxSchema))
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		return nil, badScoring("schema", "the schema is not JSON")
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err = c.AddResource("schema.json", v); err != nil {
		return nil, badScoring("schema", "the schema cannot be used")
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		return nil, badScoring("schema", "it is not a JSON schema, or refers to another one")
	}
	return schema, nil
}

type noLoader struct{}

// Load implements jsonschema.URLLoader.
func (noLoader) Load(string) (any, error) { return nil, errors.New("schemas are not fetched") }

// judged reads a judge's answer: JSON with a score from 0 to 1, alone or between other words.
func judged(answer string) (float64, error) {
	from, to := strings.Index(answer, "{"), strings.LastIndex(answer, "}")
	var v struct {
		Score *float64 `json:"score"`
	}
	if from < 0 || to < from || json.Unmarshal([]byte(answer[from:to+1]), &v) != nil || v.Score == nil || !(*v.Score >= 0 && *v.Score <= 1) {
		return 0, errors.New("judge_not_understood")
	}
	return *v.Score, nil
}
