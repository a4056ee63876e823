// Package db owns the way to PostgreSQL: the pool that requests share, transactions, and the migrations of
// the schema "forgewire". It knows nothing of channels or caches; what a table means is the business of the
// package that reads it.
//
//	pool, err := db.NewPool(ctx, db.PoolConfig{URL: url})
//	if err != nil { … }      // the URL is wrong; a server that is away is not an error here
//	defer pool.Close()
//	err = db.Migrate(ctx, url)
//	err = db.InTx(ctx, pool, func(tx pgx.Tx) error { … })
//	if db.Unavailable(err) { … } // 503: nothing is wrong with the request
//
// A pool never queues without bound: whoever would be one too many to wait for a connection, or has waited
// for too long, gets ErrBusy.
package db
