package fakellm

// responses is POST /v1/responses.
func responses(x *exchange) {
	r := x.reply(0)
	a := &responseAnswer{x: x, r: r}
	if !x.request.Stream {
		x.whole(len(r.tokens), a.response(a.status(), []object{a.item(true)}, true))
		return
	}
	a.stream()
}

// responseAnswer makes the parts of one answer.
type responseAnswer struct {
	x        *exchange
	r        *reply
	s        *stream
	sequence int
}

func (a *responseAnswer) status() string {
	if a.r.finish == "length" || a.r.finish == "content_filter" {
		return "incomplete"
	}
	return "completed"
}

func (a *responseAnswer) response(status string, output []object, ended bool) object {
	o := object{
		"id": "resp_" + a.x.nonce, "object": "response", "created_at": created, "status": status, "error": nil,
		"incomplete_details": nil, "instructions": nil, "max_output_tokens": nil, "model": a.x.request.Model,
		"output": output, "parallel_tool_calls": true, "previous_response_id": nil, "reasoning": object{"effort": nil, "summary": nil},
		"store": true, "temperature": 1.0, "text": object{"format": object{"type": "text"}}, "tool_choice": "auto",
		"tools": []any{}, "top_p": 1.0, "truncation": "disabled", "usage": nil, "user": nil, "metadata": object{},
	}
	if ended {
		n := len(a.r.tokens)
		o["usage"] = object{"input_tokens": a.r.prompt, "input_tokens_details": object{"cached_tokens": 0},
			"output_tokens": n, "output_tokens_details": object{"reasoning_tokens": 0}, "total_tokens": a.r.prompt + n}
		switch a.r.finish {
		case "length":
			o["incomplete_details"] = object{"reason": "max_output_tokens"}
		case "content_filter":
			o["incomplete_details"] = object{"reason": "content_filter"}
		}
	}
	return o
}

// item is the output: a message or the call of a function, finished or just begun.
func (a *responseAnswer) item(finished bool) object {
	status, text, content := "in_progress", "", []object{}
	if finished {
		status, text = a.status(), a.r.text()
		content = []object{a.part(text)}
	}
	if a.r.tool != "" {
		return object{"id": "fc_" + a.x.nonce, "type": "function_call", "status": status, "call_id": "call_" + a.x.nonce,
			"name": a.r.tool, "arguments": text}
	}
	return object{"id": "msg_" + a.x.nonce, "type": "message", "status": status, "role": "assistant", "content": content}
}

func (a *responseAnswer) part(text string) object {
	return object{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}
}

// event sends an event with its type and number.
func (a *responseAnswer) event(kind string, o object) {
	a.s.event(kind, a.numbered(kind, o))
}

func (a *responseAnswer) numbered(kind string, o object) object {
	o["type"], o["sequence_number"] = kind, a.sequence
	a.sequence++
	return o
}

func (a *responseAnswer) stream() {
	a.s = a.x.newStream(func() (string, any) {
		return "error", a.numbered("error", object{"code": "server_error", "param": nil,
			"message": "The fake model was told to fail in mid-stream."})
	})
	a.event("response.created", object{"response": a.response("in_progress", []object{}, false)})
	a.event("response.in_progress", object{"response": a.response("in_progress", []object{}, false)})
	a.event("response.output_item.added", object{"output_index": 0, "item": a.item(false)})
	if a.r.tool != "" {
		if !a.streamTool() {
			return
		}
	} else if !a.streamText() {
		return
	}
	a.event("response.output_item.done", object{"output_index": 0, "item": a.item(true)})
	if f := a.x.behaviour.Fault; f == NoDone || f == NoFinish {
		return
	}
	a.event("response."+a.status(), object{"response": a.response(a.status(), []object{a.item(true)}, true)})
}

func (a *responseAnswer) streamText() bool {
	at := func(o object) object {
		o["item_id"], o["output_index"], o["content_index"] = "msg_"+a.x.nonce, 0, 0
		return o
	}
	a.event("response.content_part.added", at(object{"part": a.part("")}))
	if !a.s.tokens(a.r.tokens, func(text string) {
		a.event("response.output_text.delta", at(object{"delta": text, "logprobs": []any{}}))
	}) {
		return false
	}
	a.event("response.output_text.done", at(object{"text": a.r.text(), "logprobs": []any{}}))
	a.event("response.content_part.done", at(object{"part": a.part(a.r.text())}))
	return true
}

func (a *responseAnswer) streamTool() bool {
	at := func(o object) object {
		o["item_id"], o["output_index"] = "fc_"+a.x.nonce, 0
		return o
	}
	if !a.s.tokens(a.r.tokens, func(text string) {
		a.event("response.function_call_arguments.delta", at(object{"delta": text}))
	}) {
		return false
	}
	a.event("response.function_call_arguments.done", at(object{"name": a.r.tool, "arguments": a.r.text()}))
	return true
}
