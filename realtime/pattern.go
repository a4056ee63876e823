package realtime

import (
	"cmp"
	"slices"
	"strings"
)

// pattern is the form of a namespace's channels, as Centrifugo writes it: /users/:user/inbox. A segment that begins
// with a colon stands for any one that is not empty, so it never reaches over a slash.
type pattern struct {
	segments  []string
	namespace string
	options   ChannelOptions
}

// parsePattern returns a pattern, or what is wrong with its text.
func parsePattern(text string) (p pattern, wrong string) {
	if checkChannel(text) != "" || !strings.HasPrefix(text, "/") || strings.ContainsAny(text, "$#*") {
		return p, "a pattern begins with a slash and has no $, # or *, as /users/:user/inbox"
	}
	p.segments = strings.Split(text[1:], "/")
	var names []string
	for _, s := range p.segments {
		name, variable := strings.CutPrefix(s, ":")
		if name == "" || strings.Contains(name, ":") {
			return p, "each segment of a pattern is a text, or a colon and a name"
		}
		if variable && slices.Contains(names, name) {
			return p, "two segments have the name " + name
		}
		if variable {
			names = append(names, name)
		}
	}
	return p, ""
}

func variable(segment string) bool { return segment[0] == ':' }

// matches takes a channel that begins with a slash.
func (p pattern) matches(channel string) bool {
	rest, more := channel[1:], true
	for _, want := range p.segments {
		if !more {
			return false
		}
		var got string
		if got, rest, more = strings.Cut(rest, "/"); got == "" || got != want && !variable(want) {
			return false
		}
	}
	return !more
}

// compare orders patterns such that of two which match the same channel, the one that says more about it comes first.
// Those that are equal match the same channels.
func (p pattern) compare(q pattern) int {
	return slices.CompareFunc(p.segments, q.segments, func(a, b string) int {
		switch {
		case variable(a) && variable(b):
			return 0
		case variable(a):
			return 1
		case variable(b):
			return -1
		}
		return cmp.Compare(a, b)
	})
}
