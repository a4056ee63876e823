// Package bench measures Forgewire from outside: replicas run as processes of their own, as in production,
// and the load generator, which shares the machine with them, is kept as cheap as it can be.
//
//	report, err := bench.Fanout(ctx, bench.FanoutConfig{Binary: exe, Publishers: 64, Subscribers: 2, …})
//	if err != nil { … }      // also ErrBroken: something was lost, doubled or out of order
//	report.Print(os.Stdout)
//
// Fanout measures publishing over HTTP and receiving over WebSocket, beside the floor: the same appends
// without either. SQL measures what forgewire.publish costs a user's own transactions. Both check that what
// was acknowledged arrived, once and in order: a figure for a server that loses messages says nothing.
//
// LLM measures the endpoint before a fake model (infra/fakellm), beside the model itself and a naive cache, and
// checks that every answer is whole and its question's.
//
// HTTP measures what a replica serves over HTTP at rising rates, open loop, beside a bare handler (Floor).
//
// Each call owns what it starts (a private PostgreSQL, the replicas, the generator) and has ended all of it
// when it returns. It never judges a time: machines differ. Only ratios inside one run are to be trusted.
package bench
