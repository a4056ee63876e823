package db

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// ErrBusy says that no connection to the database came free: too many wait already, or the wait was too long.
// Nothing was sent to the database.
var ErrBusy = errors.New("the database is busy")

// What ErrBusy is in particular.
var (
	errQueueFull      error = busyError("too many wait for a connection to the database")
	errAcquireTimeout error = busyError("no connection to the database came free in time")
)

// busyError is also a context's error, since it comes from one.
type busyError string

func (e busyError) Error() string { return string(e) }

func (e busyError) Is(target error) bool {
	return target == ErrBusy || target == context.DeadlineExceeded
}

// Unavailable says whether err means that the database could not be asked, and may be able to answer soon: it
// is busy, starting, stopping, or away. HTTP has 503 for that.
func Unavailable(err error) bool {
	if errors.Is(err, ErrBusy) || errors.Is(err, puddle.ErrClosedPool) {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code[:min(2, len(e.Code))] {
		case "08", "53", "57", "58": // connection, resources (too many connections), operator (shutdown; also a statement's timeout), system
			return true
		}
		return e.Code == "55P03" // a lock's timeout
	}
	return false
}
