package config

import (
	"fmt"
	"slices"
	"strings"
)

// Mistake is one thing that is wrong with the environment.
type Mistake struct {
	Variable string
	Problem  string
	Example  string // a right value, empty where there is none
}

// String is the line that a person reads.
func (m Mistake) String() string {
	if m.Example == "" {
		return m.Variable + ": " + m.Problem
	}
	return fmt.Sprintf("%s: %s (example: %s=%s)", m.Variable, m.Problem, m.Variable, m.Example)
}

// Mistakes is all that is wrong with the environment, as one error.
type Mistakes []Mistake

// Error has a heading and a line for each mistake.
func (m Mistakes) Error() string {
	var b strings.Builder
	b.WriteString("the configuration has ")
	if len(m) == 1 {
		b.WriteString("a mistake:")
	} else {
		fmt.Fprintf(&b, "%d mistakes:", len(m))
	}
	for _, one := range m {
		b.WriteString("\n  " + one.String())
	}
	return b.String()
}

// name reports whether one of the mistakes is about one of the variables.
func (m Mistakes) name(variables ...string) bool {
	return slices.ContainsFunc(m, func(one Mistake) bool {
		return slices.Contains(variables, one.Variable)
	})
}
