package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// What is done for one tenant runs as him: see forgewire.enter. To enter costs as much as a small read, so a connection
// stays with its tenant, and is only brought elsewhere when somebody else gets it. That is done for connections of
// which it is known that they lead to a server process of their own: behind a pooler in transaction mode a session is
// shared, and each transaction enters for itself.

// session is what we know of a connection's state. It belongs to whoever has the connection.
type session struct {
	direct bool      // no pooler is in between
	tenant string    // whose it is; "" for nobody's
	torn   bool      // something failed on the way: tenant says nothing
	until  time.Time // then it enters anew: whoever made the tenants' role anew is heeded within the minute
}

const (
	sessionKey  = "forgewire.session"
	sessionLife = time.Minute
)

// enterSession is forgewire.enter for a whole session. It is no function, so that the tenants' role, which runs it when a
// connection goes from one tenant to another, needs no right for it.
const enterSession = `SELECT set_config('forgewire.tenant', $1, false), CASE WHEN NOT row_security_active('forgewire.prompts') THEN
	set_config('forgewire.left_role', current_setting('role'), false) || (SELECT set_config('role',
		left('forgewire_tenant_' || pg_get_userbyid(c.relowner), 63)::name::text, false) FROM pg_class c WHERE c.oid = 'forgewire.prompts'::regclass) END`

// leaveSession needs no transaction, no statement, and no right.
const leaveSession = "RESET ROLE; RESET forgewire.tenant; RESET forgewire.left_role"

// sessionOf is what is known of a connection; of one that NewPool did not make, that it is shared.
func sessionOf(c *pgx.Conn) *session {
	if s, ok := c.PgConn().CustomData()[sessionKey].(*session); ok {
		return s
	}
	return &session{}
}

// in says whether nothing is to be done for the tenant.
func (s *session) in(tenant string) bool {
	return s.direct && !s.torn && s.tenant == tenant && time.Now().Before(s.until)
}

// enter is the statement that makes a connection, or if it is shared a transaction, the tenant's.
func (s *session) enter() string {
	if s.direct {
		return enterSession
	}
	return enter
}

// tear is called before something that changes the session, and entered when the server has committed it.
func (s *session) tear() { s.torn = true }

func (s *session) entered(tenant string) {
	if s.direct {
		s.tenant, s.torn, s.until = tenant, false, time.Now().Add(sessionLife)
	}
}

// forTenant marks a context: who asks the pool for a connection with it enters a tenant himself.
type forTenant struct{ context.Context }

type forTenantKey struct{}

// Value is context.Context's.
func (c forTenant) Value(key any) any {
	if key == (forTenantKey{}) {
		return true
	}
	return c.Context.Value(key)
}

// leaveTenant makes a connection nobody's, unless who gets it enters a tenant himself. It says whether the connection
// may be used.
func leaveTenant(ctx context.Context, c *pgx.Conn) bool {
	s := sessionOf(c)
	if s.tenant == "" && !s.torn || ctx.Value(forTenantKey{}) != nil {
		return true
	}
	if err := c.PgConn().Exec(ctx, leaveSession).Close(); err != nil {
		return false
	}
	s.tenant, s.torn = "", false
	return true
}
