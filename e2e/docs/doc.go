// Package docs holds the documents to what is there: links lead somewhere, tests that are named exist, references
// agree with the catalog and the metrics, ARCHITECTURE.md with the imports; and what stands between fences is run, in
// order, beside a `forgewire dev --ephemeral` (see run_test.go).
//
// A comment on the line before a fence says what is special about the block:
//
//	<!-- not run: REASON -->            it is parsed, and that is all
//	<!-- runs until stopped -->         a server: the document goes on once it is ready
//	<!-- prints what is published on CHANNEL -->  it runs until it has printed a message that the test publishes
package docs
