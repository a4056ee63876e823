// Package llm answers requests for a language model from a cache, in front of any upstream that speaks the
// OpenAI API. Identical requests that are in flight, in this process or on another replica, become one call.
//
//	request ─► key ─► cache ─hit─────────────────────────────► replay
//	             └─miss─► flight ─► election ─won──► upstream ─► events ─► every reader, cache, log
//	                                    └────lost─► the log ──► events ─► every reader
//
// The key covers everything that can change an answer (key.go). A flight is one generation under way
// (flight.go): its readers, the one who asked first among them, read its events from the first one on, so a
// client that leaves ends nothing. The leader of a flight, one replica, is elected through Postgres and writes the events to
// a channel of the log, where other replicas and resuming clients read them. A complete answer is stored as
// one recording (recording.go) from which each form, streamed or not, is rendered (replay.go).
//
// A Service owns every goroutine: Run returns when they have ended. The package decides neither who a caller
// is nor what he may spend: both come through Config. Text of prompts and answers is never part of a log line or of an
// error.
package llm
