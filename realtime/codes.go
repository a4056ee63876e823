package realtime

import "github.com/centrifugal/protocol"

// Error answers a command or a call of the server API, with a code of the Centrifuge protocol.
type Error struct {
	Code      uint32 `json:"code"`
	Message   string `json:"message"`
	Temporary bool   `json:"-"` // the same may succeed later
}

func (e *Error) Error() string { return e.Message }

func (e *Error) reply() *protocol.Error {
	return &protocol.Error{Code: e.Code, Message: e.Message, Temporary: e.Temporary}
}

// With returns an error of e's code whose message says more.
func (e *Error) With(why string) *Error {
	return &Error{Code: e.Code, Message: e.Message + ": " + why, Temporary: e.Temporary}
}

// What a command can be answered with.
var (
	ErrInternal          = &Error{Code: 100, Message: "internal server error", Temporary: true}
	ErrPermissionDenied  = &Error{Code: 103, Message: "permission denied"}
	ErrMethodNotFound    = &Error{Code: 104, Message: "method not found"}
	ErrAlreadySubscribed = &Error{Code: 105, Message: "already subscribed"}
	ErrLimitExceeded     = &Error{Code: 106, Message: "limit exceeded"}
	ErrBadRequest        = &Error{Code: 107, Message: "bad request"}
	ErrNotAvailable      = &Error{Code: 108, Message: "not available"}
	ErrTokenExpired      = &Error{Code: 109, Message: "token expired"}
	ErrTooManyRequests   = &Error{Code: 111, Message: "too many requests", Temporary: true}
	ErrUnrecoverable     = &Error{Code: 112, Message: "unrecoverable position"}
)

// Disconnect ends a connection with a code of the Centrifuge protocol: below 3500 the client reconnects.
type Disconnect struct {
	Code   uint16 `json:"code"`
	Reason string `json:"reason"` // under 124 bytes, for a close frame
}

func (d *Disconnect) Error() string { return d.Reason }

// Codes that are looked at elsewhere.
const (
	disconnectInvalidTokenCode = 3500
	disconnectBadRequestCode   = 3501
)

// disconnectEnded is not told to anybody: the client's stream of events ended with its subscription.
var disconnectEnded = &Disconnect{3000, "ended"}

// Why the server ends a connection.
var (
	disconnectShutdown     = &Disconnect{3001, "shutdown"}
	disconnectExpired      = &Disconnect{3005, "connection expired"}
	disconnectSlow         = &Disconnect{3008, "slow"}
	disconnectInsufficient = &Disconnect{3010, "insufficient state"}
	disconnectOld          = &Disconnect{3011, "force reconnect"}
	disconnectNoPong       = &Disconnect{3012, "no pong"}
	disconnectTooMany      = &Disconnect{3013, "too many requests"}
	disconnectInvalidToken = &Disconnect{disconnectInvalidTokenCode, "invalid token"}
	disconnectBadRequest   = &Disconnect{disconnectBadRequestCode, "bad request"}
	disconnectStale        = &Disconnect{3502, "stale"}
	disconnectForced       = &Disconnect{3503, "force disconnect"}
	disconnectUserLimit    = &Disconnect{3504, "connection limit"}
	disconnectNotAvailable = &Disconnect{3508, "not available"}
	disconnectPanicked     = &Disconnect{3510, "internal server error"}
	// disconnectLimit is WebSocket's own "try again later" (RFC 6455 registry).
	disconnectLimit = &Disconnect{1013, "connection limit"}
)

// with returns a disconnect of d's code whose reason says more.
func (d *Disconnect) with(why string) *Disconnect {
	return &Disconnect{d.Code, d.Reason + ": " + why}
}

// badRequest says what was wrong with what the client sent.
func badRequest(why string) *Disconnect {
	return disconnectBadRequest.with(why)
}

// unsubscribeServer is how the server takes a channel away for good.
const (
	unsubscribeServer       = 2000
	unsubscribeServerReason = "server unsubscribe"
)

// Unsubscribe codes from 2500 on make the client subscribe again.
const (
	unsubscribeInsufficient       = 2500
	unsubscribeInsufficientReason = "insufficient state"
	unsubscribeExpired            = 2501
	unsubscribeExpiredReason      = "subscription expired"
)
