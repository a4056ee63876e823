package resources

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/jackc/pgx/v5/pgconn"

	"forgewire/db"
	"forgewire/handlers/problem"
)

var (
	notFound  = problem.New(http.StatusNotFound, "not_found", "there is none of this id")
	nameTaken = problem.New(http.StatusConflict, "name_taken", "there is one of this name already")
	inUse     = problem.New(http.StatusConflict, "in_use", "an evaluation refers to it: delete that first")
	busy      = problem.Later("busy", "others hold what this needs: send it again")
	away      = problem.Later("service_unavailable", "the database cannot be asked at the moment")
	internal  = problem.New(http.StatusInternalServerError, "internal_error", "something went wrong here; the request's id is in X-Request-Id")
)

// fail answers with what an error means for the caller. What is ours is logged, and nothing of it told.
func (c *call) fail(err error) {
	p := problemOf(err)
	if p.Status >= http.StatusInternalServerError && c.r.Context().Err() == nil {
		c.s.logger.WarnContext(c.ctx, "a request failed", "route", c.route.Path, "error", err)
	}
	p.Write(c.w)
}

func problemOf(err error) *problem.Problem {
	var p *problem.Problem
	var pg *pgconn.PgError
	var refused *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, db.ErrNotFound):
		return notFound
	case errors.Is(err, db.ErrConflict):
		return nameTaken
	case errors.Is(err, db.ErrInUse):
		return inUse
	case errors.As(err, &pg):
		return problemOfPostgres(pg.Code)
	case errors.Is(err, db.ErrBusy), errors.Is(err, context.DeadlineExceeded), errors.As(err, &refused), errors.As(err, &network):
		return away
	}
	return internal
}

// problemOfPostgres tells what may go well later from a mistake of ours.
func problemOfPostgres(code string) *problem.Problem {
	switch code {
	case "55P03", "57014", "25P03": // lock_not_available, query_canceled, idle_in_transaction_session_timeout
		return busy
	}
	switch code[:2] {
	case "40": // transaction_rollback: it lost to another one, several times
		return busy
	case "08", "53", "57", "58": // connection, resources, operator's intervention, system
		return away
	}
	return internal
}
