package fakellm

import "time"

// Behaviour is how one model answers. The zero value answers ten tokens at once.
type Behaviour struct {
	Tokens     int           // length of an answer; 0 is ten
	FirstToken time.Duration // before anything is sent
	Interval   time.Duration // between the tokens of a stream; one that does not stream waits as long in one go
	Fixed      bool          // the same question gets the same text again, as with a seed: without a nonce
	Stamped    bool          // each token carries the time at which it was sent, see [Stamp]
	Length     bool          // the answer ends for want of tokens: finish_reason is length
	Filtered   bool          // or because of a filter: content_filter

	// Hold keeps the answer back after After tokens until it is closed. nil holds nothing.
	Hold <-chan struct{}

	Fault Fault
	// After is how many tokens of a stream come before the fault or the hold.
	After int
	// Times is how many calls the fault meets; 0 is all.
	Times int
	// RetryAfter is sent with the faults that are a status.
	RetryAfter string
}

const defaultTokens = 10

func (b Behaviour) tokens() int {
	if b.Tokens == 0 {
		return defaultTokens
	}
	return b.Tokens
}

// Fault is what goes wrong.
type Fault int

// Faults that concern a stream's middle do to an answer that is not streamed what comes nearest, or nothing.
const (
	None        Fault = iota
	Cut               // the connection is closed in mid-answer
	HalfEvent         // the last event ends in its middle, and the stream as if it were whole
	InvalidUTF8       // a token is not UTF-8
	BadJSON           // an event is not JSON
	ErrorEvent        // an event says that an error happened, and the stream ends
	NoDone            // the stream ends in order but for its terminator
	NoFinish          // the stream has its terminator, but no choice says why it finished
	ErrorIn200        // the answer is an error with status 200
	HTML              // the answer is a page with status 200
	BigChunk          // one event has three megabytes
	BadTool           // the arguments of the tool call are not JSON
	Odd               // nothing is wrong: comments, CRLF, no space after the colon, and a few bytes at a time
	Stall             // the answer stops in its middle until the caller leaves
	Hang              // no answer until the caller leaves
	TooMany           // 429
	ServerError       // 500
	Overloaded        // 503
	BadRequest        // 400
	Redirect          // 307 to another address
)

// status is what a fault that is a status answers; 0 for the others.
func (f Fault) status() int {
	switch f {
	case TooMany:
		return 429
	case ServerError:
		return 500
	case Overloaded:
		return 503
	case BadRequest:
		return 400
	}
	return 0
}

// BigSize is how long BigChunk's token is.
const BigSize = 3 << 20
