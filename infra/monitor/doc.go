// Package monitor remembers what a replica's requests took: per route how many, how long by percentile over the
// last thousand and since the start, which were slow, and where their time went.
//
//	m := monitor.New()
//	ctx, req := m.Begin(ctx)                       // middleware
//	defer monitor.Span(ctx, monitor.Cache).End()   // anywhere below it
//	req.Done("/v1/prompts/{id}", "GET", 200)       // middleware
//	stats := m.Stats()                             // of this replica; Merge adds another's
//
// Recording takes well under a microsecond and no lock that requests fight for. Everything is bounded: routes,
// the requests that are remembered, and the slow ones. What is recorded of a request is its route's pattern,
// never its path or its query.
package monitor
