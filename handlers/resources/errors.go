package resources

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

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
	case errors.As(err, &pg) && lost(pg.Code):
		return busy
	case db.Unavailable(err), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network):
		return away
	}
	return internal
}

// lost says whether a statement ended because of what others do at the same time.
func lost(code string) bool {
	switch code {
	case "55P03", "57014", "25P03": // lock_not_available, query_canceled, idle_in_transaction_session_timeout
		return true
	}
	return strings.HasPrefix(code, "40") // transaction_rollback, several times
}
