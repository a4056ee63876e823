// Package resources are those of a back end for prompt engineering: prompts, data sets, evaluations. They are
// also the example of how a resource is added: a table with row-level security and its functions in package db,
// and here one file that decodes, calls, and encodes; docs/serve.md has it in thirty lines.
//
// Every route is an entry of the table in routes.go, from which the OpenAPI document is made as well. A handler
// returns an error, and gets a *call, which knows the tenant: what belongs to another tenant does not exist. What
// changes something does so in one transaction, together with its idempotency key's answer, the message on the
// tenant's channel, and the notice by which every replica forgets what it had cached.
//
// Run owns the only goroutine: it forgets what was heard. No template, case or answer is ever part of a log line
// or of an error.
package resources
