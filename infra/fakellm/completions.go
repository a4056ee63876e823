package fakellm

// completions is POST /v1/completions.
func completions(x *exchange) {
	x.request.Tools = nil
	replies := x.replies()
	base := func(choices []object) object {
		return object{"id": "cmpl-" + x.nonce, "object": "text_completion", "created": created, "model": x.request.Model,
			"system_fingerprint": "fp_" + x.mark, "choices": choices}
	}
	choice := func(r *reply, text string, finish any) []object {
		return []object{{"index": r.choice, "text": text, "logprobs": nil, "finish_reason": finish}}
	}
	tokens := 0
	for _, r := range replies {
		tokens += len(r.tokens)
	}
	usage := object{"prompt_tokens": replies[0].prompt, "completion_tokens": tokens, "total_tokens": replies[0].prompt + tokens}
	if !x.request.Stream {
		var choices []object
		for _, r := range replies {
			choices = append(choices, choice(r, r.text(), x.finish(r))...)
		}
		o := base(choices)
		o["usage"] = usage
		x.whole(len(replies[0].tokens), o)
		return
	}
	s := x.newStream(func() (string, any) {
		return "", object{"error": errorObject("server_error", "", "The fake model was told to fail in mid-stream.")}
	})
	for _, r := range replies {
		if !s.tokens(r.tokens, func(text string) { s.event("", base(choice(r, text, nil))) }) {
			return
		}
		s.event("", base(choice(r, "", x.finish(r))))
	}
	if x.request.StreamOptions.IncludeUsage {
		o := base([]object{})
		o["usage"] = usage
		s.event("", o)
	}
	s.done()
}
