package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"forgewire/handlers/problem"
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

// newScorer checks what was asked for. What an answer may cost is bounded, whatever the answer is: see checker and
// expression.
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
		e, err := newExpression(pattern)
		if err != nil {
			return nil, badScoring("pattern", "the pattern is not a regular expression of RE2, or repeats too much")
		}
		sc.score = func(output string, _ *string) (float64, error) {
			if e.steps(output) > maxSteps {
				return 0, errTooMuchWork
			}
			return oneIf(e.MatchString(output)), nil
		}
	case "json_schema":
		c, err := newChecker(s.Schema)
		if err != nil {
			return nil, err
		}
		sc.score = func(output string, _ *string) (float64, error) {
			fits, err := c.fits(output)
			return oneIf(fits), err
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
