// Package bench measures Forgewire from outside: replicas run as processes of their own, as in production,
// and the load generator, which shares the machine with them, is kept as cheap as it can be.
//
//	report := bench.NewReport(ctx, os.Args[1:], version, bench.Target{})
//	result, err := bench.Fanout(ctx, bench.FanoutConfig{Setup: bench.Setup{Binary: exe, …}, Publishers: 64, …})
//	if err != nil { … }      // also ErrBroken: something was lost, doubled or out of order
//	report.Add(result)
//	report.Print(os.Stdout)  // or WriteJSON, WriteHTML, Markdown; Compare compares two
//
// Every benchmark returns a Result, tables of rows, which every printer reads; Suite runs all of them. Each is measured
// beside something in the same run: the same appends without HTTP and WebSocket (Fanout), transactions that do not publish
// (SQL), the centrifuge library (Connections, Broadcast, Resume, Presence), the model itself and a naive cache (LLM), a
// bare handler (HTTP). Mixed is everything at once.
//
// Rates are open loop: a thing is due at a time, whatever the server does, and its own time counts from then. Where the
// question is how much is possible, the loop is closed, and says so.
//
// All check what they get: that what was acknowledged arrived, once and in order, and that every answer is whole and its
// question's. A figure for a server that does otherwise says nothing. They never judge a time: machines differ, and only
// ratios inside one run are to be trusted.
//
// Each call owns what it starts (a private PostgreSQL, the replicas, the generator) and has ended all of it when it
// returns. A Target in the Setup is measured in place of that, as far as it can be.
package bench
