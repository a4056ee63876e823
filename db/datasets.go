package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Dataset is a set of cases.
type Dataset struct {
	ID        string
	Name      string
	Variables []string // of each case, sorted; nil until the first one is there
	Cases     int64    // numbered from 1 on
	Created   time.Time
	Updated   time.Time
}

// Case is what one question to a model is made from, and what should come.
type Case struct {
	N         int64
	Variables map[string]string
	Expected  *string
}

const datasetColumns = "d.id, d.name, d.variables, d.cases, d.created_at, d.updated_at FROM forgewire.datasets d WHERE d.tenant = $1"

// CreateDataset makes one without cases. ErrConflict: the tenant has one of that name.
func CreateDataset(ctx context.Context, tx pgx.Tx, tenant, id, name string) (Dataset, error) {
	if _, err := tx.Exec(ctx, "INSERT INTO forgewire.datasets (tenant, id, name) VALUES ($1, $2, $3)", tenant, id, name); err != nil {
		return Dataset{}, orConflict("create a data set", err)
	}
	return readDataset(ctx, tx, tenant, id, "")
}

// LockDataset holds a data set until the transaction ends, so that its cases are added to by one writer.
func LockDataset(ctx context.Context, tx pgx.Tx, tenant, id string) (Dataset, error) {
	return readDataset(ctx, tx, tenant, id, " FOR UPDATE")
}

func readDataset(ctx context.Context, tx pgx.Tx, tenant, id, lock string) (Dataset, error) {
	rows, err := tx.Query(ctx, "SELECT "+datasetColumns+" AND d.id = $2"+lock, tenant, id)
	if err != nil {
		return Dataset{}, fmt.Errorf("read a data set: %w", err)
	}
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Dataset])
	return d, orNotFound("read a data set", err)
}

// ReadDataset reads a data set, without its cases.
func ReadDataset(ctx context.Context, pool *pgxpool.Pool, tenant, id string) (Dataset, error) {
	d, err := query(ctx, pool, tenant, "SELECT "+datasetColumns+" AND d.id = $2", []any{tenant, id},
		func(rows pgx.Rows) (Dataset, error) {
			return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Dataset])
		})
	return d, orNotFound("read a data set", err)
}

// ListDatasets reads a page, the newest first, those before the id `before` if there is one.
func ListDatasets(ctx context.Context, pool *pgxpool.Pool, tenant, before string, limit int) ([]Dataset, error) {
	found, err := query(ctx, pool, tenant, "SELECT "+datasetColumns+" AND ($2 = '' OR d.id < $2) ORDER BY d.id DESC LIMIT $3", []any{tenant, before, limit},
		func(rows pgx.Rows) ([]Dataset, error) { return pgx.CollectRows(rows, pgx.RowToStructByPos[Dataset]) })
	if err != nil {
		return nil, fmt.Errorf("list data sets: %w", err)
	}
	return found, nil
}

// DeleteDataset deletes a data set with its cases. ErrInUse: an evaluation refers to it.
func DeleteDataset(ctx context.Context, tx pgx.Tx, tenant, id string) error {
	done, err := tx.Exec(ctx, "DELETE FROM forgewire.datasets WHERE tenant = $1 AND id = $2", tenant, id)
	if err != nil {
		return orConflict("delete a data set", err)
	}
	if done.RowsAffected() == 0 {
		return ErrNotFound
	}
	return nil
}

// AddCases adds cases, all with the variables given, to a data set that the transaction has locked, and returns it.
func AddCases(ctx context.Context, tx pgx.Tx, tenant string, d Dataset, variables []string, cases []Case) (Dataset, error) {
	n := len(cases)
	numbers, values, expected := make([]int64, n), make([]map[string]string, n), make([]*string, n)
	for i, c := range cases {
		numbers[i], values[i], expected[i] = d.Cases+int64(i)+1, c.Variables, c.Expected
	}
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO forgewire.dataset_cases (tenant, dataset_id, n, variables, expected)
		SELECT $1, $2, c.n, c.v, c.e FROM unnest($3::bigint[], $4::jsonb[], $5::text[]) AS c(n, v, e)`, tenant, d.ID, numbers, values, expected)
	b.Queue("UPDATE forgewire.datasets SET cases = cases + $3, variables = $4, updated_at = now() WHERE tenant = $1 AND id = $2 RETURNING cases, variables, updated_at",
		tenant, d.ID, n, variables).QueryRow(func(row pgx.Row) error { return row.Scan(&d.Cases, &d.Variables, &d.Updated) })
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return Dataset{}, fmt.Errorf("add cases: %w", err)
	}
	return d, nil
}

// EachCase calls f with the cases of a data set after a number, in order, `limit` at most, until it says no.
func EachCase(ctx context.Context, pool *pgxpool.Pool, tenant, id string, after int64, limit int, f func(Case) bool) error {
	_, err := query(ctx, pool, tenant, `SELECT n, variables, expected FROM forgewire.dataset_cases
		WHERE tenant = $1 AND dataset_id = $2 AND n > $3 ORDER BY n LIMIT $4`, []any{tenant, id, after, limit}, each(f))
	if err != nil {
		return fmt.Errorf("read cases: %w", err)
	}
	return nil
}

// each collects nothing: it hands one row after the other to f.
func each[T any](f func(T) bool) func(pgx.Rows) (struct{}, error) {
	return func(rows pgx.Rows) (struct{}, error) {
		defer rows.Close()
		for rows.Next() {
			v, err := pgx.RowToStructByPos[T](rows)
			if err != nil {
				return struct{}{}, err //nolint:wrapcheck // the caller says what it read
			}
			if !f(v) {
				return struct{}{}, nil
			}
		}
		return struct{}{}, rows.Err() //nolint:wrapcheck // the same
	}
}
