package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"forgewire/handlers/problem"
)

func checkerOf(t *testing.T, schema string) *checker {
	t.Helper()
	c, err := newChecker(json.RawMessage(schema))
	if err != nil {
		t.Fatalf("%.200s: %v", schema, err)
	}
	return c
}

// What fits and what does not is what the library says.
func TestSchemas(t *testing.T) {
	t.Parallel()
	const tree = `{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","required":["name"],"properties":{"name":{"type":"string","pattern":"^[a-z]+$"},
		"of":{"type":"array","items":{"$ref":"#/$defs/node"}}},"additionalProperties":false}}}`
	for _, c := range []struct {
		schema, answer string
		fits           bool
		err            error
	}{
		{`{"type":"object"}`, `{}`, true, nil},
		{`{"type":"object"}`, `[]`, false, nil},
		{`{"type":"object"}`, `no JSON`, false, nil},
		{`{"type":"object"}`, `{} {}`, false, nil},
		{`true`, `1`, true, nil},
		{`{"not":{"type":"object"}}`, `1`, true, nil},
		{`{"minimum":0,"maximum":1e308,"multipleOf":0.01}`, `12.34`, true, nil},
		{`{"minimum":0}`, `-1e308`, false, nil},
		{`{"$schema":"http://json-schema.org/draft-07/schema#","format":"date"}`, `"2026-02-30"`, false, nil},
		{`{"$schema":"http://json-schema.org/draft-07/schema#","format":"regex"}`, `"(?=x)"`, false, nil},
		{`{"$ref":"http://json-schema.org/draft-07/schema#"}`, `{"type":"string"}`, true, nil},
		{`{"$ref":"http://json-schema.org/draft-07/schema#"}`, `{"type":"text"}`, false, nil},
		{`{"properties":{"a":{"enum":[1,2]}},"unevaluatedProperties":false}`, `{"a":2}`, true, nil},
		{`{"properties":{"a":{"enum":[1,2]}},"unevaluatedProperties":false}`, `{"a":2,"b":1}`, false, nil},
		{tree, `{"name":"a","of":[{"name":"b","of":[{"name":"c"}]}]}`, true, nil},
		{tree, `{"name":"a","of":[{"name":"b","of":[{"name":"C"}]}]}`, false, nil},
		{`{"minimum":0}`, `1e1000001`, false, errNumberTooLarge}, // of which the library makes a nil
		{`{"uniqueItems":true}`, `[` + strings.Repeat("1,", 30) + `[1E+1000001]]`, false, errNumberTooLarge},
		{`{"minimum":0}`, `{"a":1e-999999}`, false, errNumberTooLarge},
		{`{"minimum":0}`, strings.Repeat("9", 401), false, errNumberTooLarge},
		{`{"minimum":0}`, `1e99999999999999999999`, false, errNumberTooLarge},
		{`{}`, strings.Repeat("[", 40) + strings.Repeat("]", 40), false, errAnswerTooDeep},
	} {
		if fits, err := checkerOf(t, c.schema).fits(c.answer); fits != c.fits || !errors.Is(err, c.err) {
			t.Errorf("%.50s in %.50s: %v, %v", c.answer, c.schema, fits, err)
		}
	}
}

// doubling is a schema in which each of n definitions applies the next one twice.
func doubling(root string, n int, twice, leaf string) string {
	next := func(i int) string { return fmt.Sprintf(`{"$ref":"#/definitions/a%d"}`, i) } // NEXT; NAME is what is between the braces
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(root, "NEXT", next(0)))
	b.WriteString(`,"definitions":{`)
	for i := range n {
		fmt.Fprintf(&b, `"a%d":%s,`, i, strings.NewReplacer("NEXT", next(i+1), "NAME", strings.Trim(next(i+1), "{}")).Replace(twice))
	}
	fmt.Fprintf(&b, `"a%d":%s}}`, n, leaf)
	return b.String()
}

const draft7 = `{"$schema":"http://json-schema.org/draft-07/schema#",`

// A schema whose references stand for more steps than anybody can wait for is refused.
func TestSchemasThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{
		"", "{", `{"type":"text"}`, `{"$ref":"file:///etc/passwd"}`, `{"pattern":"(?=x)"}`, `{"pattern":"(x{1000}){11}"}`,
		`{"allOf":[{"pattern":"x{1000}x{1000}x{1000}x{1000}x{1000}x{1000}"},{"pattern":"y{1000}y{1000}y{1000}y{1000}y{1000}"}]}`,
		`{"multipleOf":1e1000001}`, `{"const":{"a":[1e-500]}}`,
		doubling(`{"allOf":[NEXT]`, 40, `{"allOf":[NEXT,NEXT]}`, "true"), doubling(`{"allOf":[NEXT]`, 40, `{"anyOf":[NEXT,NEXT]}`, "false"),
		doubling(`{"not":NEXT`, 40, `{"oneOf":[NEXT,NEXT]}`, "false"), doubling(`{"not":NEXT`, 40, `{"not":{"anyOf":[NEXT,NEXT]}}`, "false"),
		doubling(`{"allOf":[NEXT]`, 40, `{"if":NEXT,"then":NEXT}`, "true"), doubling(draft7+`"allOf":[NEXT]`, 40, `{"allOf":[NEXT,NEXT]}`, "true"),
		`{"$dynamicRef":"#a","$defs":{"a":{"$dynamicAnchor":"a","type":"object"}}}`,
		`{"anyOf":[` + strings.Repeat("{},", maxValues) + `{}]}`,
	} {
		if _, err := newChecker(json.RawMessage(schema)); !errors.As(err, new(*problem.Problem)) {
			t.Errorf("%.100s: %v", schema, err)
		}
	}
}

// What a schema does with one answer ends, however the two were made for each other.
func TestTheWorkOnAnAnswerIsBounded(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"x":`, 30) + "1" + strings.Repeat("}", 30)
	nested := strings.Repeat("[", 30) + "1" + strings.Repeat("]", 30)
	for _, c := range []struct{ name, schema, answer string }{
		{"branches at each level", `{"allOf":[{"properties":{"x":{"$ref":"#"}}},{"properties":{"x":{"$ref":"#"}}}]}`, deep},
		{"failing at each level", doubling(`{"not":NEXT`, 60, `{NAME,"items":NEXT}`, "false"), nested},
		{"failing dependencies", doubling(draft7+`"not":NEXT`, 40, `{"dependencies":{"x":NEXT,"y":NEXT}}`, "false"), `{"x":1,"y":1}`},
		{"dependencies", doubling(draft7+`"dependencies":{"x":NEXT}`, 40, `{"dependencies":{"x":NEXT,"y":NEXT}}`, "true"), `{"x":1,"y":1}`},
		{"many values of an enumeration", `{"items":{"enum":[` + strings.Repeat("0.1,", 1900) + `1]}}`, "[" + strings.Repeat("2,", 200_000) + "2]"},
		{"many patterns", `{"patternProperties":{"[ab]{0,999}c":true,"[ab]{0,999}d":true}}`, `{"` + strings.Repeat("a", 1<<20) + `":1}`},
		{"a long text", `{"pattern":"[ab]{0,999}c"}`, `"` + strings.Repeat("a", 4<<20) + `"`},
		{"expressions to compile", draft7 + `"items":{"format":"regex"}}`, `[` + strings.Repeat(`"`+strings.Repeat("[ab]{999}", 11)+`",`, 10_000) + `1]`},
	} {
		began := time.Now()
		_, err := checkerOf(t, c.schema).fits(c.answer)
		if !errors.Is(err, errTooMuchWork) {
			t.Errorf("%s: %v", c.name, err)
		}
		t.Log(c.name, time.Since(began))
	}
	s, err := newScorer(Scoring{Type: "regex", Pattern: `^([ab]{0,90}c){0,10}d`})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = s.score(strings.Repeat("ab", 1<<20), nil); !errors.Is(err, errTooMuchWork) {
		t.Errorf("an expression of thousands of instructions on 2 MB: %v", err)
	}
	// What people really ask for is far from the bound.
	var items []string
	for i := range 2000 {
		items = append(items, fmt.Sprintf(`{"id":%d,"name":"item %d","tags":["a","b","c"],"at":{"x":1.5,"y":2.5}}`, i, i))
	}
	c := checkerOf(t, `{"type":"array","uniqueItems":true,"items":{"type":"object","required":["id","name"],"additionalProperties":false,"properties":{"id":{"type":"integer","minimum":0},
		"name":{"type":"string","maxLength":100,"pattern":"^item [0-9]+$"},"tags":{"type":"array","items":{"enum":["a","b","c"]}},
		"at":{"type":"object","properties":{"x":{"type":"number"},"y":{"type":"number"}}}}}}`)
	if fits, err := c.fits("[" + strings.Join(items, ",") + "]"); err != nil || !fits {
		t.Errorf("140 KB of items: %v, %v", fits, err)
	}
	t.Log("steps of them:", maxSteps-c.left)
}
