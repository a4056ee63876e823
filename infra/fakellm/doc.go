// Package fakellm is a model that is none: a real HTTP server with OpenAI's endpoints, for tests, benchmarks and
// demonstrations of what stands in front of a model.
//
//	m, err := fakellm.Start(fakellm.Config{Behaviours: map[string]fakellm.Behaviour{
//		"fast":  {Tokens: 20},
//		"slow":  {Tokens: 200, FirstToken: 300 * time.Millisecond, Interval: 20 * time.Millisecond},
//		"flaky": {Tokens: 20, Fault: fakellm.Cut, After: 7, Times: 1},
//	}})
//	if err != nil { … }
//	defer m.Close()
//	… point an OpenAI client at m.URL() …
//	m.Count("fast") // how often it was really asked
//
// It answers POST /v1/chat/completions, /v1/responses, /v1/completions and /v1/embeddings, streaming or not, and
// GET /v1/models. The name of the model in a request chooses the behaviour, and nothing else does: no prompt can
// make it fail. Behaviours may be changed while it runs.
//
// Every answer begins with a mark of what was asked and a nonce, so whoever gets an answer to somebody else's
// question, or one that was asked for again, can tell; then come the numbers of the tokens, so that one that is
// lost, doubled or out of order shows.
//
// Close ends what is under way and returns when every handler has.
package fakellm
