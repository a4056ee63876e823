// Package config turns the environment into one checked [Config].
//
// It is the only package that knows the names of variables: everything else is
// given values. [Load] reports every mistake in one go, each with its variable,
// what is wrong and an example of a right value, so that a deployment is put
// right in one round. A variable that begins with FORGEWIRE_ and is not known
// is a mistake too: a typo must not go unseen.
//
// Values that may carry a password or a key are of type [Secret], which prints
// as a placeholder wherever it ends up, and no error of this package repeats
// one.
//
// The struct tags of [Config] are the single source: the loader, the checks and
// the help text ([Table]) are all driven by them.
//
//	cfg, err := config.Load(os.Environ())
//	if err != nil {
//		return err // config.Mistakes: one line for each
//	}
//	pool, err := pgxpool.New(ctx, cfg.DatabaseURL.Reveal())
//
// Each secret may also stand in a file, which NAME_FILE names: DATABASE_URL_FILE=/run/secrets/database-url.
//
// The package looks only at what it is passed and at those files, and starts and connects nothing;
// the Postgres driver, which judges the connection strings, also knows libpq's
// PG* variables.
package config
