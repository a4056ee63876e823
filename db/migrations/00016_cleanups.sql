-- When each clean-up job ran last, whichever replica ran it (see db/cleanup.go).

-- +goose Up

CREATE TABLE forgewire.cleanups (
    job text        NOT NULL PRIMARY KEY,
    ran timestamptz NOT NULL
);

-- +goose Down

DROP TABLE forgewire.cleanups;
