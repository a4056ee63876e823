package db

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// poolerCheck finds out whether something stands between us and the server that hands a session's
// transactions to different server processes, as PgBouncer in transaction mode does. Named prepared
// statements, which pgx keeps by default, do not survive that: a statement is in another process than the
// one that is asked. Behind such a thing only the descriptions of statements are kept, which costs a little.
//
// What gives it away: a server tells each session the number of its process, and a pooler makes one up. A
// pooler in session mode does so too, and is treated the same.
type poolerCheck struct {
	logger *slog.Logger
	chosen bool // the URL says how to execute: that is what is done
	found  atomic.Bool
}

// unfit marks a connection that was made before the pooler was found.
const unfit = "forgewire.unfit"

// prepare chooses how a new connection executes.
func (p *poolerCheck) prepare(cc *pgx.ConnConfig) {
	if p.found.Load() {
		cc.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		cc.StatementCacheCapacity = 0
	}
}

// KeepAlive is an expression of SQL that lets the server notice within half a minute that the session's client is gone
// without a word, as a machine is that is suspended and then thrown away; else it would hold the connection for hours. It
// looks for that also while a statement runs, which whoever dies does not cancel; only on Linux, since some systems' servers
// cannot, and refuse the setting.
const KeepAlive = `set_config('tcp_keepalives_idle', '10', false) || set_config('tcp_keepalives_interval', '5', false)
	|| set_config('tcp_keepalives_count', '4', false) || set_config('tcp_user_timeout', '30000', false)
	|| CASE WHEN strpos(version(), 'linux') > 0 THEN set_config('client_connection_check_interval', '5000', false) ELSE '' END`

// askProcess also sets KeepAlive, but not on a pooler's sessions, which are everybody's.
const askProcess = `SELECT pg_backend_pid(), CASE pg_backend_pid() WHEN %d THEN ` + KeepAlive + ` END`

// look compares the two numbers, on every new connection: the address may lead elsewhere tomorrow. It asks
// without a statement, as it may be talking to a pooler.
func (p *poolerCheck) look(ctx context.Context, c *pgx.Conn) error {
	if p.chosen || c.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return nil
	}
	results, err := c.PgConn().Exec(ctx, fmt.Sprintf(askProcess, c.PgConn().PID())).ReadAll()
	if err != nil {
		return fmt.Errorf("ask the server for its process: %w", err)
	}
	if len(results) == 1 && len(results[0].Rows) == 1 && string(results[0].Rows[0][0]) == strconv.FormatUint(uint64(c.PgConn().PID()), 10) {
		c.PgConn().CustomData()[sessionKey] = &session{direct: true}
		return nil
	}
	c.PgConn().CustomData()[unfit] = true
	if p.found.CompareAndSwap(false, true) {
		p.logger.Info("the database is behind a pooler: prepared statements are not kept; if it keeps them, or is in session mode, add default_query_exec_mode=cache_statement to DATABASE_URL")
	}
	return nil
}

// usable says whether a connection may be used: not one that would keep statements behind a pooler.
func (p *poolerCheck) usable(c *pgx.Conn) bool {
	return !p.found.Load() || c.PgConn().CustomData()[unfit] == nil
}
