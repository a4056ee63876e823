// Package db owns the way to PostgreSQL: the pool that requests share, and the migrations of the schema
// "forgewire". It knows nothing of channels or caches; what a table means is the business of the package
// that reads it.
//
//	pool, err := db.NewPool(ctx, db.PoolConfig{URL: url})
//	if err != nil { … }      // the URL is wrong; a server that is away is not an error here
//	defer pool.Close()
//	err = db.Migrate(ctx, url)
package db
