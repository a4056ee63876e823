package llm

import (
	"errors"
	"slices"
)

// A tree is a value that is put together from the pieces of a stream.
type tree struct {
	kind  byte
	text  []byte // a string's text between the quotes, or any other scalar's text
	names []string
	kids  []*tree // of an object, in the order of names, or of an array
}

// replaced are strings of a delta that a piece repeats or sets; every other one goes on where the last one ended.
var replaced = map[string]bool{"id": true, "type": true, "role": true, "name": true, "call_id": true, "finish_reason": true, "format": true, "status": true, "object": true}

func newTree(n node, goesOn bool) *tree {
	t := &tree{}
	t.set(n, goesOn)
	return t
}

func (t *tree) set(n node, goesOn bool) {
	*t = tree{kind: n.kind}
	switch n.kind {
	case '{':
		for _, m := range n.members {
			t.names = append(t.names, m.name)
			t.kids = append(t.kids, newTree(m.value, goesOn))
		}
	case '[':
		t.extend(n, goesOn)
	case '"':
		t.text = slices.Clone(n.raw[1 : len(n.raw)-1])
	default:
		t.text = slices.Clone(n.raw)
	}
}

func (t *tree) get(name string) *tree {
	if i := slices.Index(t.names, name); i >= 0 && t.kind == '{' {
		return t.kids[i]
	}
	return nil
}

// merge adds a piece's value of the member name. Strings go on only in what says so: elsewhere, as in the verdicts of a
// filter, a piece repeats them. Their text is joined as it is written, escapes and all, so that a pair of surrogates
// that was cut in two is whole again.
func (t *tree) merge(name string, n node, goesOn bool) {
	switch {
	case n.kind == 'n':
	case n.kind != t.kind:
		t.set(n, goesOn)
	case n.kind == '{':
		for _, m := range n.members {
			t.mergeMember(m.name, m.value, goesOn)
		}
	case n.kind == '[':
		t.extend(n, goesOn)
	case n.kind == '"' && goesOn && !replaced[name]:
		t.text = append(t.text, n.raw[1:len(n.raw)-1]...)
	default:
		t.set(n, goesOn)
	}
}

func (t *tree) mergeMember(name string, n node, goesOn bool) {
	if old := t.get(name); old != nil {
		old.merge(name, n, goesOn)
		return
	}
	t.names = append(t.names, name)
	t.kids = append(t.kids, newTree(n, goesOn))
}

// extend adds items: to the one with the same index, if they have one, else behind the others.
func (t *tree) extend(n node, goesOn bool) {
	for _, item := range n.items {
		index := item.get("index")
		if index.kind != '0' {
			t.kids = append(t.kids, newTree(item, goesOn))
			continue
		}
		t.indexed(string(index.raw)).merge("", item, goesOn)
	}
}

// extendChoices adds what a chunk has of the choices. What a model says goes on, and nothing else.
func (t *tree) extendChoices(e endpoint, n node) {
	for _, item := range n.items {
		index := item.get("index")
		if index.kind != '0' {
			t.kids = append(t.kids, newTree(item, false))
			continue
		}
		choice := t.indexed(string(index.raw))
		for _, m := range item.members {
			choice.mergeMember(m.name, m.value, m.name == "delta" || e == completions && m.name == "text")
		}
	}
}

// indexed returns the item with an index, or a new one.
func (t *tree) indexed(index string) *tree {
	for _, k := range t.kids {
		if i := k.get("index"); i != nil && string(i.text) == index {
			return k
		}
	}
	k := &tree{kind: '{', names: []string{"index"}, kids: []*tree{{kind: '0', text: []byte(index)}}}
	t.kids = append(t.kids, k)
	return k
}

func (t *tree) append(b []byte) []byte {
	switch t.kind {
	case '{':
		b = append(b, '{')
		for i, k := range t.kids {
			if i > 0 {
				b = append(b, ',')
			}
			b = k.append(append(appendQuoted(b, t.names[i]), ':'))
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, k := range t.kids {
			if i > 0 {
				b = append(b, ',')
			}
			b = k.append(b)
		}
		return append(b, ']')
	case '"':
		return append(append(append(b, '"'), t.text...), '"')
	}
	return append(b, t.text...)
}

func (t *tree) drop(name string) {
	if i := slices.Index(t.names, name); i >= 0 {
		t.names = slices.Delete(t.names, i, i+1)
		t.kids = slices.Delete(t.kids, i, i+1)
	}
}

var errNoAnswer = errors.New("the stream holds no answer")

// assemble makes the object, which a request without stream gets, of a stream's events.
func assemble(e endpoint, events []event) ([]byte, error) {
	if e == responses {
		return assembleResponse(events)
	}
	object := "chat.completion"
	if e == completions {
		object = "text_completion"
	}
	top := &tree{kind: '{'}
	choices, usage := &tree{kind: '['}, (*tree)(nil)
	for _, ev := range events {
		n, err := parseJSON(ev.data)
		if err != nil || n.kind != '{' {
			return nil, errNoAnswer
		}
		for _, m := range n.members {
			switch m.name {
			case "choices":
				if m.value.kind == '[' {
					choices.extendChoices(e, m.value)
				}
			case "usage":
				if m.value.kind == '{' {
					usage = newTree(m.value, false)
				}
			case "object":
				top.mergeMember(m.name, node{kind: '"', raw: quote(object)}, false)
			case "obfuscation":
			default:
				if old := top.get(m.name); old == nil || old.kind == 'n' || old.kind == '"' && len(old.text) == 0 {
					top.drop(m.name)
					top.mergeMember(m.name, m.value, false)
				}
			}
		}
	}
	if len(choices.kids) == 0 {
		return nil, errNoAnswer
	}
	slices.SortStableFunc(choices.kids, func(a, b *tree) int { return compareIndex(a, b) })
	for _, c := range choices.kids {
		finishChoice(e, c)
	}
	top.names, top.kids = append(top.names, "choices"), append(top.kids, choices)
	if usage != nil {
		top.names, top.kids = append(top.names, "usage"), append(top.kids, usage)
	}
	return top.append(nil), nil
}

func compareIndex(a, b *tree) int {
	x, y := a.get("index"), b.get("index")
	if x == nil || y == nil {
		return 0
	}
	if d := len(x.text) - len(y.text); d != 0 {
		return d
	}
	return slices.Compare(x.text, y.text)
}

// finishChoice gives a choice the names that it has outside of a stream.
func finishChoice(e endpoint, c *tree) {
	i := slices.Index(c.names, "delta")
	if e != chat || i < 0 {
		return
	}
	c.names[i] = "message"
	message := c.kids[i]
	if message.kind != '{' {
		return
	}
	if message.get("content") == nil {
		message.names, message.kids = append(message.names, "content"), append(message.kids, &tree{kind: 'n', text: []byte("null")})
	}
	if calls := message.get("tool_calls"); calls != nil {
		for _, call := range calls.kids {
			call.drop("index")
		}
	}
}

// assembleResponse takes the whole response that the last event of a stream of responses carries.
func assembleResponse(events []event) ([]byte, error) {
	for _, ev := range slices.Backward(events) {
		n, err := parseJSON(ev.data)
		if err != nil {
			return nil, errNoAnswer
		}
		switch n.get("type").text() {
		case "response.completed", "response.incomplete", "response.failed":
			if r := n.get("response"); r.kind == '{' {
				return r.raw, nil
			}
			return nil, errNoAnswer
		}
	}
	return nil, errNoAnswer
}
