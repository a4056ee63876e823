// Package e2e tests the whole system as its users meet it: real replicas as processes, a real PostgreSQL, and
// real clients. It knows the binary, its protocols and its SQL functions, and imports nothing of ours but
// devstack, which runs the servers.
//
// A test makes a cluster, which has a database of its own; publishers write into a ledger what they were told,
// subscribers what they saw; and in the end the checker compares both with the log:
//
//	c := newCluster(t, 2, options{})
//	book := newLedger()
//	s := c.subscribe(0, "room:1")
//	stop := c.flood(book, "room:1")
//	… an accident …
//	stop()
//	c.settle(book, s)
//
// Tests that take PostgreSQL down start one of their own. E2E_LONG=1 runs the variants that a change does not wait for
// too, with the race detector, and makes some faults last as long as the promises say; CI=true makes it a failure where
// a browser or Node is missing.
package e2e
