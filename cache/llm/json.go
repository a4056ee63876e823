package llm

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds how deep values may nest. Schemas of tools, the deepest that are sent, have some 20 levels.
const maxDepth = 128

// maxValues bounds how many values a request may have: each takes far more memory than the two bytes that it may be
// written in. The endpoints' own limits are far below: embeddings of 300,000 tokens, written as numbers.
const maxValues = 1 << 19

// A node is a JSON value together with its text: what is not edited goes on exactly as it came.
type node struct {
	kind    byte   // '{', '[', '"', '0' for any number, 't', 'f', 'n'
	raw     []byte // its text
	members []member
	items   []node
}

type member struct {
	name  string // decoded
	key   []byte // its text, with the quotes
	value node
}

// parseJSON reads one value. It refuses what one reader may take for something else than another does: text
// that is not UTF-8 and names that occur twice.
func parseJSON(text []byte) (node, error) { return parseUpTo(text, math.MaxInt) }

// parseUpTo is parseJSON for what strangers send.
func parseUpTo(text []byte, values int) (node, error) { return parseWith(text, parser{left: values}) }

func parseWith(text []byte, p parser) (node, error) {
	if !utf8.Valid(text) {
		return node{}, errNotUTF8
	}
	if !json.Valid(text) {
		return node{}, errNotJSON
	}
	p.text = text
	p.space()
	return p.value(0)
}

// parseAnswer is parseUpTo for what upstreams send, of which only the frame is looked at: lists of numbers, as embeddings
// are, have no items here.
func parseAnswer(text []byte) (node, error) {
	return parseWith(text, parser{left: maxValues, skims: true})
}

// parser builds the tree of a text that is known to be valid.
type parser struct {
	text []byte
	at   int
	left int // values that there may be
	// skims leaves the numbers out of lists.
	skims bool
}

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) value(depth int) (n node, err error) {
	if depth > maxDepth {
		return node{}, errTooDeep
	}
	if p.left--; p.left < 0 {
		return node{}, errTooMany
	}
	start := p.at
	switch c := p.text[p.at]; c {
	case '{':
		n.kind = c
		n.members, err = p.object(depth)
	case '[':
		n.kind = c
		n.items, err = p.array(depth)
	case '"':
		n.kind = c
		p.string()
	case 't', 'n':
		n.kind = c
		p.at += 4
	case 'f':
		n.kind = c
		p.at += 5
	default:
		n.kind = '0'
		for p.at < len(p.text) && bytes.IndexByte([]byte("+-.0123456789eE"), p.text[p.at]) >= 0 {
			p.at++
		}
	}
	n.raw = p.text[start:p.at]
	return n, err
}

func (p *parser) object(depth int) (members []member, err error) {
	for p.at++; ; p.at++ { // behind the brace, or the comma
		if p.space(); p.text[p.at] == '}' {
			p.at++
			return members, twice(members)
		}
		m := member{key: p.string()}
		m.name = decodeString(m.key)
		p.space()
		p.at++ // the colon
		p.space()
		if m.value, err = p.value(depth + 1); err != nil {
			return nil, err
		}
		members = append(members, m)
		if p.space(); p.text[p.at] == '}' {
			p.at++
			return members, twice(members)
		}
	}
}

func (p *parser) array(depth int) (items []node, err error) {
	for p.at++; ; p.at++ {
		if p.space(); p.text[p.at] == ']' {
			p.at++
			return items, nil
		}
		item, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.skims && item.kind == '0' {
			p.left++
		} else {
			items = append(items, item)
		}
		if p.space(); p.text[p.at] == ']' {
			p.at++
			return items, nil
		}
	}
}

func (p *parser) string() []byte {
	start := p.at
	for p.at++; p.text[p.at] != '"'; p.at++ {
		if p.text[p.at] == '\\' {
			p.at++
		}
	}
	p.at++
	return p.text[start:p.at]
}

// twice returns an error if a name occurs more than once.
func twice(members []member) error {
	if len(members) <= 16 {
		for i := range members {
			for j := range i {
				if members[i].name == members[j].name {
					return errDuplicate
				}
			}
		}
		return nil
	}
	seen := make(map[string]struct{}, len(members))
	for i := range members {
		if _, again := seen[members[i].name]; again {
			return errDuplicate
		}
		seen[members[i].name] = struct{}{}
	}
	return nil
}

// get returns an object's member, or a node without a kind.
func (n node) get(name string) node {
	for i := range n.members {
		if n.members[i].name == name {
			return n.members[i].value
		}
	}
	return node{}
}

// has says whether there is a value other than null.
func (n node) has() bool { return n.kind != 0 && n.kind != 'n' }

// text returns what a string says, or "" for anything else.
func (n node) text() string {
	if n.kind != '"' {
		return ""
	}
	return decodeString(n.raw)
}

// integer returns a whole number, or 0 for anything else.
func (n node) integer() int64 {
	if n.kind != '0' {
		return 0
	}
	i, err := strconv.ParseInt(string(n.raw), 10, 64)
	if err != nil {
		return 0
	}
	return i
}

// with returns an object's text in which a member has another value, or is added, or is left out for nil.
func (n node) with(name string, value []byte) []byte {
	b := make([]byte, 0, len(n.raw)+len(name)+len(value)+4)
	b = append(b, '{')
	done := value == nil
	add := func(key, value []byte) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, key...), ':'), value...)
	}
	for _, m := range n.members {
		switch {
		case m.name != name:
			add(m.key, m.value.raw)
		case value != nil:
			add(m.key, value)
			done = true
		}
	}
	if !done {
		add(quote(name), value)
	}
	return append(b, '}')
}

// appendCanonical appends the one text that all texts of the same value share: no white space, names in order,
// the fewest escapes, and each number in one form that is exact, however large. It leaves out members of the
// object itself, not of those in it, for which skip is true.
func (n node) appendCanonical(b []byte, skip func(name string) bool) []byte {
	switch n.kind {
	case '{':
		members := slices.Clone(n.members)
		slices.SortFunc(members, func(a, b member) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
		b = append(b, '{')
		for _, m := range members {
			if skip != nil && skip(m.name) {
				continue
			}
			b = append(appendQuoted(b, m.name), ':')
			b = append(m.value.appendCanonical(b, nil), ',')
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for _, item := range n.items {
			b = append(item.appendCanonical(b, nil), ',')
		}
		return append(b, ']')
	case '"':
		if bytes.IndexByte(n.raw, '\\') < 0 {
			return append(b, n.raw...)
		}
		return appendQuoted(b, decodeString(n.raw))
	case '0':
		return appendNumber(b, n.raw)
	}
	return append(b, n.raw...)
}

// appendNumber appends a number as digits and an exponent, exactly: 1, 1.0 and 10e-1 are one number, and
// 9007199254740993 is not 9007199254740992.
func appendNumber(b, raw []byte) []byte {
	negative := raw[0] == '-'
	mantissa, exponent := bytes.TrimPrefix(raw, []byte("-")), int64(0)
	if i := bytes.IndexAny(mantissa, "eE"); i >= 0 {
		e, err := strconv.ParseInt(string(mantissa[i+1:]), 10, 32)
		if err != nil {
			return append(b, raw...) // an exponent of more than 9 digits: equal only to itself
		}
		mantissa, exponent = mantissa[:i], e
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	digits := append(slices.Clone(whole), fraction...)
	exponent -= int64(len(fraction))
	for len(digits) > 1 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		exponent++
	}
	digits = bytes.TrimLeft(digits, "0")
	if len(digits) == 0 {
		return append(b, '0')
	}
	if negative {
		b = append(b, '-')
	}
	b = append(append(b, digits...), 'e')
	return strconv.AppendInt(b, exponent, 10)
}
