package llm

import "sync"

// Reserve sets tokens, and what they cost, aside for a call of a model that begins, or says why it may not. What it
// returns lets go of them, before the run is recorded that says how many they were.
type Reserve func(c Caller, tokens, costMicros int64) (release func(), why *Refusal)

// guess is how long an answer is taken to be whose request does not bound it.
const guess = 1000

// expects is what a request may take, as far as it says.
func (req *request) expects() usage {
	u := usage{prompt: int64(len(req.body.raw)/perToken + 1)}
	if req.endpoint == embeddings {
		return u
	}
	for _, name := range []string{"max_tokens", "max_completion_tokens", "max_output_tokens"} {
		u.completion = max(u.completion, min(req.body.get(name).integer(), 1<<30))
	}
	if u.completion == 0 {
		u.completion = guess
	}
	u.completion *= min(req.choices, 1<<10)
	return u
}

// reserve asks Reserve. What it returns may be called again.
func (s *Service) reserve(req *request) (release func(), why *Refusal) {
	u, first := req.expects(), req.routes[0]
	if release, why = s.cfg.Reserve(req.caller, u.prompt+u.completion, first.upstream.cost(first.model, u)); why != nil {
		return nil, why
	}
	return sync.OnceFunc(release), nil
}
