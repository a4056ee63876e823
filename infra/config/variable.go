package config

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"
)

// Variable describes one environment variable, as the tags of [Config] do.
type Variable struct {
	Name     string
	Aliases  []string // taken, in this order, where Name is absent
	Default  string   // as one would write it, "" where there is none
	Required bool     // by `serve`
	Meaning  string
	Example  string

	field    string // name in Config
	kind     reflect.Type
	fallback string
	min, max string
	oneof    []string
}

// Variables lists the environment variables in the order of [Config].
func Variables() []Variable { return variables() }

func variables() []Variable {
	t := reflect.TypeFor[Config]()
	vars := make([]Variable, 0, t.NumField())
	for f := range t.Fields() {
		vars = append(vars, Variable{
			Name:     f.Tag.Get("env"),
			Aliases:  strings.Fields(f.Tag.Get("aliases")),
			Default:  f.Tag.Get("envDefault"),
			Required: f.Tag.Get("required") == "true",
			Meaning:  f.Tag.Get("meaning"),
			Example:  f.Tag.Get("example"),
			field:    f.Name,
			kind:     f.Type,
			fallback: f.Tag.Get("fallback"),
			min:      f.Tag.Get("min"),
			max:      f.Tag.Get("max"),
			oneof:    strings.Fields(f.Tag.Get("oneof")),
		})
	}
	return vars
}

func (v Variable) mistake(name, problem string) Mistake {
	return Mistake{Variable: name, Problem: problem, Example: v.Example}
}

// otherwise says, for a variable that must be set, how to do without.
func (v Variable) otherwise() string {
	switch v.Name {
	case "FORGEWIRE_API_KEY":
		return "; to run with the server API disabled, set it to none"
	case "FORGEWIRE_TOKEN_SECRET":
		return "; to accept no tokens, set it to none and FORGEWIRE_ALLOW_ANONYMOUS to true"
	}
	return ""
}

// notA is the problem with text that does not say what the variable holds.
func (v Variable) notA(raw string) string {
	if v.isSecret() {
		return "is not " + v.wanted()
	}
	return fmt.Sprintf("%q is not %s", raw, v.wanted())
}

// wanted says what the variable holds, with its bounds.
func (v Variable) wanted() string {
	var noun string
	switch v.kind {
	case reflect.TypeFor[int](), reflect.TypeFor[int64]():
		noun = "a whole number"
	case reflect.TypeFor[time.Duration]():
		noun = "a duration"
	case reflect.TypeFor[bool]():
		return "true or false"
	case reflect.TypeFor[slog.Level]():
		noun = "a level"
	default:
		noun = "a value"
	}
	if n := len(v.oneof); n == 1 {
		return v.oneof[0]
	} else if n > 1 {
		return strings.Join(v.oneof[:n-1], ", ") + " or " + v.oneof[n-1]
	}
	return noun + v.bounds()
}

func (v Variable) bounds() string {
	switch {
	case v.min != "" && v.max != "":
		return " from " + v.min + " to " + v.max
	case v.min != "":
		return " of at least " + v.min
	}
	return ""
}
