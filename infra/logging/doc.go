// Package logging builds the one structured logger of a process.
//
// Every line has time, level and msg; a line that is written with the context
// of a request also has request_id, so that all lines of one request can be
// found. Keys are fixed: use the constants here where one fits.
//
//	log := logging.New(os.Stderr, slog.LevelInfo, "json")
//	ctx = logging.WithRequestID(ctx, id)
//	log.InfoContext(ctx, "published", logging.Channel, "room:1")
//
// The package keeps no global logger and never sets slog's default: whoever
// needs a logger is given one.
package logging
