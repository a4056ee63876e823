package fakellm

// chat is POST /v1/chat/completions.
func chat(x *exchange) {
	replies := x.replies()
	id := "chatcmpl-" + x.nonce
	if x.request.Stream {
		chatStream(x, id, replies)
		return
	}
	choices := make([]object, len(replies))
	tokens := 0
	for i, r := range replies {
		message := object{"role": "assistant", "content": r.text(), "refusal": nil, "annotations": []any{}}
		if r.tool != "" {
			message["content"] = nil
			message["tool_calls"] = []object{{"id": "call_" + x.nonce, "type": "function",
				"function": object{"name": r.tool, "arguments": r.text()}}}
		}
		choices[i] = object{"index": i, "message": message, "logprobs": nil, "finish_reason": x.finish(r)}
		tokens += len(r.tokens)
	}
	x.whole(len(replies[0].tokens), object{
		"id": id, "object": "chat.completion", "created": created, "model": x.request.Model,
		"choices": choices, "usage": chatUsage(replies[0].prompt, tokens),
		"service_tier": "default", "system_fingerprint": "fp_" + x.mark,
	})
}

// finish is why a choice finished; nothing with the fault NoFinish.
func (x *exchange) finish(r *reply) any {
	if x.behaviour.Fault == NoFinish {
		return nil
	}
	return r.finish
}

func chatUsage(prompt, completion int) object {
	return object{
		"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
		"prompt_tokens_details":     object{"cached_tokens": 0, "audio_tokens": 0},
		"completion_tokens_details": object{"reasoning_tokens": 0, "audio_tokens": 0},
	}
}

func chatStream(x *exchange, id string, replies []*reply) {
	usage := x.request.StreamOptions.IncludeUsage
	chunk := func(choices []object) object {
		o := object{"id": id, "object": "chat.completion.chunk", "created": created, "model": x.request.Model,
			"service_tier": "default", "system_fingerprint": "fp_" + x.mark, "choices": choices}
		if usage {
			o["usage"] = nil
		}
		return o
	}
	s := x.newStream(func() (string, any) {
		return "", object{"error": errorObject("server_error", "", "The fake model was told to fail in mid-stream.")}
	})
	delta := func(r *reply, d object, finish any) {
		s.event("", chunk([]object{{"index": r.choice, "delta": d, "logprobs": nil, "finish_reason": finish}}))
	}
	completion := 0
	for _, r := range replies {
		first := object{"role": "assistant", "content": "", "refusal": nil}
		emit := func(text string) { delta(r, object{"content": text}, nil) }
		if r.tool != "" {
			first = object{"role": "assistant", "content": nil, "tool_calls": []object{{"index": 0, "id": "call_" + x.nonce,
				"type": "function", "function": object{"name": r.tool, "arguments": ""}}}}
			emit = func(text string) {
				delta(r, object{"tool_calls": []object{{"index": 0, "function": object{"arguments": text}}}}, nil)
			}
		}
		delta(r, first, nil)
		if !s.tokens(r.tokens, emit) {
			return
		}
		completion += len(r.tokens)
		if finish := x.finish(r); finish != nil {
			delta(r, object{}, finish)
		}
	}
	if usage {
		o := chunk([]object{})
		o["usage"] = chatUsage(replies[0].prompt, completion)
		s.event("", o)
	}
	s.done()
}
