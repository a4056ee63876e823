package resources

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"forgewire/handlers/problem"
)

const (
	maxTemplate  = 256 << 10 // bytes
	maxVariables = 100
	maxVariable  = 64      // letters of a name
	maxRendered  = 1 << 20 // bytes
)

// The language of templates is text with {{name}} in it, blanks around the name allowed, and \{{ for two braces that
// mean nothing. There are no expressions, and what is put in is never looked at again: a value with {{name}} in it is
// that text.

// variablesOf checks a template and returns the names in it, sorted.
func variablesOf(template string) ([]string, error) {
	if template == "" || len(template) > maxTemplate {
		return nil, problem.Bad("invalid_template", "template", fmt.Sprintf("a template has 1 to %d bytes", maxTemplate))
	}
	found := map[string]bool{}
	err := walk(template, func(string) {}, func(name string) { found[name] = true })
	if err != nil {
		return nil, err
	}
	if len(found) > maxVariables {
		return nil, problem.Bad("invalid_template", "template", fmt.Sprintf("a template has at most %d variables", maxVariables))
	}
	names := make([]string, 0, len(found)) // never nil: the table wants an array
	return append(names, slices.Sorted(maps.Keys(found))...), nil
}

// render puts values into a template. Each variable must have one, and each value its variable.
func render(template string, variables []string, values map[string]string) (string, error) {
	for _, name := range variables {
		if _, ok := values[name]; !ok {
			return "", wrongVariable("missing_variable", name, "the template has a variable without a value")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(variables, name) {
			return "", wrongVariable("unknown_variable", name, "the template has no such variable")
		}
	}
	var b strings.Builder
	large := false
	add := func(s string) {
		if large = large || b.Len()+len(s) > maxRendered; !large {
			b.WriteString(s)
		}
	}
	if err := walk(template, add, func(name string) { add(values[name]) }); err != nil {
		return "", err
	}
	if large {
		return "", problem.New(http.StatusUnprocessableEntity, "rendered_too_large", fmt.Sprintf("the text would have more than %d bytes", maxRendered))
	}
	return b.String(), nil
}

func wrongVariable(code, name, why string) error {
	p := problem.New(http.StatusUnprocessableEntity, code, why)
	p.Field = "variables." + name
	return p
}

// walk reads a template from left to right.
func walk(template string, text, variable func(string)) error {
	for rest := template; ; {
		at := strings.Index(rest, "{{")
		if at < 0 {
			text(rest)
			return nil
		}
		if at > 0 && rest[at-1] == '\\' {
			text(rest[:at-1])
			text("{{")
			rest = rest[at+2:]
			continue
		}
		text(rest[:at])
		name, after, closed := strings.Cut(rest[at+2:], "}}")
		if name = strings.Trim(name, " "); !closed || !isVariable(name) {
			return problem.Bad("invalid_template", "template",
				fmt.Sprintf(`what stands in {{ }} at byte %d is not a name of letters, digits and _; for the braces themselves write \{{`, len(template)-len(rest)+at))
		}
		variable(name)
		rest = after
	}
}

func isVariable(s string) bool {
	if s == "" || len(s) > maxVariable || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' {
			return false
		}
	}
	return true
}
