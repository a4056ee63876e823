package config

import (
	"fmt"
	"strings"
)

const tableWidth = 100

// Table is the list of variables for `serve --help`: name, default, meaning.
func Table() string {
	vars := variables()
	names, defaults := len("VARIABLE"), len("DEFAULT")
	for _, v := range vars {
		names = max(names, len(v.Name))
		defaults = max(defaults, len(v.shownDefault()))
	}
	var b strings.Builder
	row := func(name, def, meaning string) {
		for i, line := range wrap(meaning, tableWidth-names-defaults-4) {
			if i > 0 {
				name, def = "", ""
			}
			fmt.Fprintf(&b, "%-*s  %-*s  %s\n", names, name, defaults, def, line)
		}
	}
	row("VARIABLE", "DEFAULT", "MEANING")
	for _, v := range vars {
		row(v.Name, v.shownDefault(), v.shownMeaning())
	}
	return b.String()
}

func (v Variable) shownDefault() string {
	switch {
	case v.Default != "":
		return v.Default
	case v.Required:
		return "required"
	}
	return "-"
}

func (v Variable) shownMeaning() string {
	text := v.Meaning
	switch {
	case len(v.oneof) > 0:
		text += ": " + v.wanted()
	case v.min != "":
		text += "," + strings.TrimPrefix(v.bounds(), " of")
	}
	for i, other := range append(v.Aliases[:len(v.Aliases):len(v.Aliases)], v.fallback) {
		switch {
		case other == "":
		case i == 0:
			text += "; else " + other
		default:
			text += ", else " + other
		}
	}
	return text
}

// wrap breaks text into lines of at most width bytes, but never a word.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
