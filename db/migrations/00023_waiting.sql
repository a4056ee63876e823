-- Since when an evaluation waits for its model, and how often it has tried the next case, so that it gives up after a day of that
-- and not a day after it was made, and so that a case of which a model fails does not hold up the others. The two are of an
-- evaluation whose error is not ''. Both columns are added without a rewrite, and replicas of the version before leave them
-- alone.

-- +goose Up
ALTER TABLE forgewire.evaluations ADD COLUMN waits_since timestamptz, ADD COLUMN tries int NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE forgewire.evaluations DROP COLUMN waits_since, DROP COLUMN tries;
