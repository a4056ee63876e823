// Package access decides who may use /v1 and how much of it, and keeps the record of what was used.
//
// A Gate is made of three parts. The verifier finds out whose an API key is, and remembers it for a minute or until
// it hears that the key was changed. The ledger holds what each key has left of its minute and its month; it
// answers from memory and settles with Postgres, where all replicas meet, a few times a second while there is
// something to settle. The journal writes the run log in batches; it drops runs rather than make anybody wait, and
// counts those. An idle Gate runs no query.
//
//	gate, err := access.New(access.Config{Pool: pool, Logger: logger, ServerKey: key, Retention: 30 * 24 * time.Hour, Flush: 2 * time.Second})
//	go gate.Run(ctx) // until every request has ended
//	r.Use(gate.Authenticate)             // the caller is in llm.CallerFrom(ctx)
//	r.With(gate.Limit).Post("/chat/completions", …)
//
// No key, no prompt and no answer is ever part of a log line or of an error.
package access
