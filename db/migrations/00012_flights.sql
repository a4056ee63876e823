-- +goose Up

-- Who generates which answer now. Neither table is worth a flush to disk: after a crash nothing is under way.

CREATE UNLOGGED TABLE forgewire.flights (
	key     bytea PRIMARY KEY,
	id      text NOT NULL,            -- of the answer, and of its channel
	owner   text NOT NULL,            -- the replica that leads
	tenant  text NOT NULL,            -- whose, hashed
	purged  boolean NOT NULL DEFAULT false, -- what was cached when it began is no longer wanted
	attempt int NOT NULL DEFAULT 1,   -- one more for each leader that died
	landed  timestamptz,              -- complete; kept for a moment, for whoever missed the cache just before
	followed boolean NOT NULL DEFAULT false -- another replica reads along
) WITH (fillfactor = 80);
CREATE INDEX flights_id ON forgewire.flights (id);
CREATE INDEX flights_followed ON forgewire.flights (owner) WHERE followed;

CREATE UNLOGGED TABLE forgewire.flight_owners (
	owner text PRIMARY KEY,
	seen  timestamptz NOT NULL        -- the server's clock: replicas' clocks may disagree
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE forgewire.flight_owners;
DROP TABLE forgewire.flights;
