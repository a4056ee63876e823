package llm

import "strconv"

// responseEvents numbers the events of a stream of responses.
type responseEvents struct{ events []event }

// emit adds an event; fields is JSON without the braces.
func (r *responseEvents) emit(kind, fields string) {
	b := append([]byte(`{"type":`), quote(kind)...)
	b = strconv.AppendInt(append(b, `,"sequence_number":`...), int64(len(r.events)), 10)
	r.events = append(r.events, event{name: kind, data: append(append(append(b, ','), fields...), '}')})
}

// splitResponse makes the stream of a response that was got whole: each item and part is announced, told in one
// piece, and ended.
func splitResponse(n node) []event {
	r := &responseEvents{}
	begun, err := parseJSON(n.with("status", []byte(`"in_progress"`)))
	if err != nil {
		return nil
	}
	begun, err = parseJSON(begun.with("output", []byte("[]")))
	if err != nil {
		return nil
	}
	start := `"response":` + string(begun.with("usage", []byte("null")))
	r.emit("response.created", start)
	r.emit("response.in_progress", start)
	for i, item := range n.get("output").items {
		r.item(i, item)
	}
	r.emit("response."+statusOf(n), `"response":`+string(n.raw))
	return r.events
}

func statusOf(n node) string {
	switch s := n.get("status").text(); s {
	case "incomplete", "failed":
		return s
	}
	return "completed"
}

func (r *responseEvents) item(index int, item node) {
	at := `"output_index":` + strconv.Itoa(index)
	inItem := `"item_id":` + string(orString(item.get("id"), "")) + "," + at
	switch item.get("type").text() {
	case "message":
		r.emit("response.output_item.added", at+`,"item":`+string(replace(replace(item, "content", "[]"), "status", `"in_progress"`).raw))
		for i, part := range item.get("content").items {
			r.part(inItem+`,"content_index":`+strconv.Itoa(i), part)
		}
	case "function_call":
		r.emit("response.output_item.added", at+`,"item":`+string(replace(replace(item, "arguments", `""`), "status", `"in_progress"`).raw))
		arguments := string(orString(item.get("arguments"), ""))
		r.emit("response.function_call_arguments.delta", inItem+`,"delta":`+arguments)
		r.emit("response.function_call_arguments.done", inItem+`,"name":`+string(orString(item.get("name"), ""))+`,"arguments":`+arguments)
	default:
		r.emit("response.output_item.added", at+`,"item":`+string(item.raw))
	}
	r.emit("response.output_item.done", at+`,"item":`+string(item.raw))
}

func (r *responseEvents) part(at string, part node) {
	field, kind := "text", "response.output_text"
	if part.get("type").text() == "refusal" {
		field, kind = "refusal", "response.refusal"
	}
	text := string(orString(part.get(field), ""))
	begun := replace(part, field, `""`)
	if begun.get("annotations").kind == '[' {
		begun = replace(begun, "annotations", "[]")
	}
	r.emit("response.content_part.added", at+`,"part":`+string(begun.raw))
	logprobs := ""
	if field == "text" {
		logprobs = `,"logprobs":[]`
		if l := part.get("logprobs"); l.kind == '[' {
			logprobs = `,"logprobs":` + string(l.raw)
		}
	}
	r.emit(kind+".delta", at+`,"delta":`+text+logprobs)
	r.emit(kind+".done", at+`,"`+field+`":`+text+logprobs)
	r.emit("response.content_part.done", at+`,"part":`+string(part.raw))
}

// replace returns an object with another value of a member that it has.
func replace(n node, name, value string) node {
	if n.get(name).kind == 0 {
		return n
	}
	changed, err := parseJSON(n.with(name, []byte(value)))
	if err != nil {
		return n // only a value of ours could be wrong
	}
	return changed
}
