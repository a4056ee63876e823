package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	maxSchema    = 64 << 10 // bytes
	maxValues    = 2000     // in a schema: objects, arrays, texts, numbers
	maxNumber    = 400      // digits of a number, and its exponent: the largest float64 has 309
	maxPattern   = 1000     // bytes of a regular expression
	maxProgram   = 10_000   // instructions of one, and of all of a schema together
	maxSteps     = 500_000  // of work on one answer: some seconds at worst
	bytesPerStep = 100      // that an instruction of a regular expression passes over
)

var (
	errNumberTooLarge   = errors.New("number_too_large")
	errAnswerTooDeep    = errors.New("answer_too_deep")
	errTooMuchWork      = errors.New("too_much_work")
	errPatternTooLarge  = errors.New("a regular expression is too large")
	errSchemaDynamic    = errors.New("$dynamicRef and $recursiveRef are not supported")
	errSchemaNotFetched = errors.New("schemas are not fetched")
)

// checker says whether answers fit a schema. A few references may stand for 2^40 steps, and the library knows neither a
// context nor a bound, so all work is counted where it lets us in: it asks for the format of each value that it looks
// at, and for each match of a regular expression. Who has no steps left is thrown out by a panic.
type checker struct {
	mu     sync.Mutex // one answer at a time has the steps
	left   int
	counts bool
	size   int // of the schema's regular expressions: it is compiled for each batch of cases, and held meanwhile
	schema *jsonschema.Schema
}

// newChecker compiles a schema. It fetches nothing: a schema refers to itself, or to what everybody knows.
func newChecker(raw json.RawMessage) (*checker, error) {
	if len(raw) == 0 || len(raw) > maxSchema {
		return nil, badScoring("schema", fmt.Sprintf("a schema has 1 to %d bytes", maxSchema))
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		return nil, badScoring("schema", "the schema is not JSON")
	}
	if values, err := weigh(v, 0); err != nil || values > maxValues {
		return nil, badScoring("schema", fmt.Sprintf("a schema has at most %d values, %d levels, and numbers of %d digits", maxValues, maxDepth, maxNumber))
	}
	c := &checker{}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	compiler.UseRegexpEngine(c.regexp)
	// Inside a `not` the library keeps no list of what is wrong, which is a list of all steps, and stops at the first fault.
	for name, doc := range map[string]any{"schema.json": v, "misfits.json": map[string]any{"not": map[string]any{"$ref": "schema.json"}}} {
		if err = compiler.AddResource(name, doc); err != nil {
			return nil, badScoring("schema", "the schema cannot be used")
		}
	}
	if c.schema, err = compiler.Compile("misfits.json"); err != nil {
		return nil, badScoring("schema", "it is not a JSON schema, or refers to another one")
	}
	if err = c.watch(c.schema, map[*jsonschema.Schema]bool{}); err != nil {
		return nil, badScoring("schema", err.Error())
	}
	c.counts = true
	for _, smallest := range []string{"null", "0", `""`, "[]", "{}"} { // what is too much for these is too much for all
		if _, err = c.fits(smallest); err != nil {
			return nil, badScoring("schema", "its references lead to too many steps")
		}
	}
	return c, nil
}

// fits says whether an answer is JSON and fits. An error is a code.
func (c *checker) fits(answer string) (fits bool, err error) {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(answer))
	if err != nil {
		return false, nil // what is no JSON does not fit
	}
	if _, err = weigh(v, 0); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = maxSteps
	defer func() {
		if p := recover(); p == errTooMuchWork { //nolint:errorlint // it is the very one
			fits, err = false, errTooMuchWork
		} else if p != nil {
			panic(p)
		}
	}()
	return c.schema.Validate(v) != nil, nil
}

func (c *checker) spend(steps int) {
	if c.left -= steps; c.counts && c.left < 0 {
		panic(errTooMuchWork)
	}
}

// bearable says whether a number is of a size that others can work with. To compare them as fractions, those with an
// exponent of a million have a million digits, and of a larger one the library makes a nil, which it does not expect; jsonb
// has a bound, too.
func bearable(n json.Number) bool {
	_, exponent, scientific := strings.Cut(strings.ToLower(n.String()), "e")
	e, err := strconv.Atoi(exponent)
	return len(n) <= maxNumber && (!scientific || err == nil && max(e, -e) <= maxNumber)
}

// weigh counts the values in a value, and finds those that nobody can work with.
func weigh(v any, depth int) (values int, err error) {
	if depth > maxDepth {
		return 0, errAnswerTooDeep
	}
	values = 1
	within := func(v any) {
		if err == nil {
			var n int
			n, err = weigh(v, depth+1)
			values += n
		}
	}
	switch v := v.(type) {
	case json.Number:
		if !bearable(v) {
			return 0, errNumberTooLarge
		}
	case []any:
		for _, item := range v {
			within(item)
		}
	case map[string]any:
		for _, property := range v {
			within(property)
		}
	}
	return values, err
}

// watch has each look of a schema at a value paid for, that at the value's own items and properties included.
func (c *checker) watch(s *jsonschema.Schema, seen map[*jsonschema.Schema]bool) error {
	if s == nil || seen[s] {
		return nil
	}
	seen[s] = true
	if s.DynamicRef != nil || s.RecursiveRef != nil { // they may lead to where we are not
		return errSchemaDynamic
	}
	once, each := subschemas(s)
	perValue, perItem := price(s), 1
	for _, sub := range once {
		perValue += price(sub)
	}
	for _, sub := range each {
		perItem += price(sub)
	}
	format := s.Format
	s.Format = &jsonschema.Format{Name: "watched", Validate: func(v any) error {
		steps := perValue
		switch v := v.(type) {
		case []any:
			steps += len(v) * perItem
			if s.UniqueItems {
				values, _ := weigh(v, 0) // it was looked at before
				steps += values * pairs(len(v))
			}
		case map[string]any:
			steps += len(v) * perItem
		case string:
			steps += len(v) / bytesPerStep
		}
		if c.spend(steps); format == nil {
			return nil
		}
		return format.Validate(v)
	}}
	for _, sub := range append(once, each...) {
		if err := c.watch(sub, seen); err != nil {
			return err
		}
	}
	return nil
}

// pairs is how often an item of an array is compared with others, to see whether all are unique: longer ones are hashed.
func pairs(items int) int {
	if items > 20 {
		return 3
	}
	return items
}

// price is what a schema costs where it looks at nothing but the value: then it may end before it asks for the format.
func price(s *jsonschema.Schema) int {
	if s == nil {
		return 0
	}
	steps := 1 + len(s.Required)
	for _, names := range s.DependentRequired {
		steps += 1 + len(names)
	}
	for _, dependency := range s.Dependencies {
		if names, ok := dependency.([]string); ok {
			steps += 1 + len(names)
		}
	}
	if s.Enum != nil {
		values, _ := weigh(s.Enum.Values, 0) // as for const: it was looked at before
		steps += values
	}
	if s.Const != nil {
		values, _ := weigh(*s.Const, 0)
		steps += values
	}
	return steps
}

// subschemas are what a schema applies once to a value or a part of it, and what it applies to each item or property.
func subschemas(s *jsonschema.Schema) (once, each []*jsonschema.Schema) {
	once = append(once, s.Ref, s.Not, s.If, s.Then, s.Else, s.ContentSchema)
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf, s.PrefixItems} {
		once = append(once, list...)
	}
	for _, named := range []map[string]*jsonschema.Schema{s.Properties, s.DependentSchemas} {
		for _, sub := range named {
			once = append(once, sub)
		}
	}
	for _, dependency := range s.Dependencies {
		if sub, ok := dependency.(*jsonschema.Schema); ok {
			once = append(once, sub)
		}
	}
	each = append(each, s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020, s.UnevaluatedItems)
	for _, sub := range s.PatternProperties {
		each = append(each, sub)
	}
	switch items := s.Items.(type) {
	case *jsonschema.Schema:
		each = append(each, items)
	case []*jsonschema.Schema:
		once = append(once, items...)
	}
	for _, additional := range []any{s.AdditionalItems, s.AdditionalProperties} {
		if sub, ok := additional.(*jsonschema.Schema); ok {
			each = append(each, sub)
		}
	}
	return once, each
}

type noLoader struct{}

// Load implements jsonschema.URLLoader.
func (noLoader) Load(string) (any, error) { return nil, errSchemaNotFetched }

// expression is a regular expression of RE2, which takes time in proportion to the text and to its own instructions: a few
// letters may stand for a thousand of those.
type expression struct {
	*regexp.Regexp
	size int
}

func newExpression(pattern string) (expression, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return expression{}, fmt.Errorf("parse a regular expression: %w", err)
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return expression{}, fmt.Errorf("compile a regular expression: %w", err)
	}
	if len(program.Inst) > maxProgram {
		return expression{}, errPatternTooLarge
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return expression{}, fmt.Errorf("compile a regular expression: %w", err)
	}
	return expression{re, len(program.Inst)}, nil
}

// steps is what it takes to look for the expression in a text.
func (e expression) steps(text string) int { return 1 + e.size*len(text)/bytesPerStep }

// counted is an expression of a schema.
type counted struct {
	expression
	c *checker
}

// MatchString implements jsonschema.Regexp.
func (e counted) MatchString(text string) bool {
	e.c.spend(e.steps(text))
	return e.expression.MatchString(text)
}

// regexp implements jsonschema.RegexpEngine. With the format regex, it compiles what is in the answer.
func (c *checker) regexp(pattern string) (jsonschema.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, errPatternTooLarge
	}
	c.spend(50 * len(pattern))
	e, err := newExpression(pattern)
	if err != nil {
		return nil, err
	}
	if !c.counts {
		if c.size += e.size; c.size > maxProgram {
			return nil, errPatternTooLarge
		}
	}
	return counted{e, c}, nil
}
