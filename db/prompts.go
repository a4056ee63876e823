package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Errors of writes that several tables share.
var (
	ErrConflict = errors.New("there is one already")              // a name that must be unique
	ErrInUse    = errors.New("something else still refers to it") // what is to be deleted
)

// Prompt is a prompt with one of its versions.
type Prompt struct {
	ID       string
	Name     string
	Revision int64 // counts every change of the prompt
	Newest   int32 // the version that was made last
	Created  time.Time
	Updated  time.Time
	Labels   map[string]int32 // label: version
	PromptVersion
}

// PromptVersion never changes.
type PromptVersion struct {
	Version   int32
	Template  string
	Variables []string
	KeyID     string // who made it; "" is the server's own key
	Made      time.Time
}

const promptColumns = `p.id, p.name, p.revision, p.version, p.created_at, p.updated_at,
	coalesce((SELECT jsonb_object_agg(l.label, l.version) FROM forgewire.prompt_labels l WHERE l.tenant = p.tenant AND l.prompt_id = p.id), '{}'),
	v.version, v.template, v.variables, v.key_id, v.created_at`

const promptVersion = ` FROM forgewire.prompts p JOIN forgewire.prompt_versions v ON v.tenant = p.tenant AND v.prompt_id = p.id`

func (p *Prompt) fields() []any {
	return append([]any{&p.ID, &p.Name, &p.Revision, &p.Newest, &p.Created, &p.Updated, &p.Labels}, p.PromptVersion.fields()...)
}

func (v *PromptVersion) fields() []any {
	return []any{&v.Version, &v.Template, &v.Variables, &v.KeyID, &v.Made}
}

func scanPrompt(row pgx.CollectableRow) (Prompt, error) {
	var p Prompt
	err := row.Scan(p.fields()...)
	return p, err
}

func onePrompt(rows pgx.Rows) (Prompt, error) { return pgx.CollectExactlyOneRow(rows, scanPrompt) }

// PromptChoice says which version of a prompt is meant: the newest if both are zero.
type PromptChoice struct {
	Version int32
	Label   string
}

// condition returns what chooses the version, with the choice as $3.
func (c PromptChoice) condition() (string, any) {
	switch {
	case c.Version != 0:
		return "v.version = $3", c.Version
	case c.Label != "":
		return "v.version = (SELECT l.version FROM forgewire.prompt_labels l WHERE l.tenant = p.tenant AND l.prompt_id = p.id AND l.label = $3)", c.Label
	}
	return "v.version = p.version AND $3::int IS NULL", nil
}

const samePrompt = " WHERE p.tenant = $1 AND p.id = $2 AND "

// ReadPrompt reads a prompt with one version. Without such a prompt or version it is ErrNotFound.
func ReadPrompt(ctx context.Context, pool *pgxpool.Pool, tenant, id string, choice PromptChoice) (Prompt, error) {
	where, arg := choice.condition()
	p, err := query(ctx, pool, tenant, "SELECT "+promptColumns+promptVersion+samePrompt+where, []any{tenant, id, arg}, onePrompt)
	return p, orNotFound("read a prompt", err)
}

// ReadPromptTx is ReadPrompt inside InTenant.
func ReadPromptTx(ctx context.Context, tx pgx.Tx, tenant, id string, choice PromptChoice) (Prompt, error) {
	where, arg := choice.condition()
	rows, err := tx.Query(ctx, "SELECT "+promptColumns+promptVersion+samePrompt+where, tenant, id, arg)
	if err != nil {
		return Prompt{}, fmt.Errorf("read a prompt: %w", err)
	}
	p, err := onePrompt(rows)
	return p, orNotFound("read a prompt", err)
}

// orNotFound says what was attempted, and makes no row ErrNotFound.
func orNotFound(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	}
	return fmt.Errorf("%s: %w", what, err)
}

// ListPrompts reads a page of a tenant's prompts, the newest first, those before the id `before` if there is one,
// of that name if there is one.
func ListPrompts(ctx context.Context, pool *pgxpool.Pool, tenant, before, name string, limit int) ([]Prompt, error) {
	prompts, err := query(ctx, pool, tenant, "SELECT "+promptColumns+promptVersion+` WHERE p.tenant = $1 AND v.version = p.version
		AND ($2 = '' OR p.id < $2) AND ($3 = '' OR p.name = $3) ORDER BY p.id DESC LIMIT $4`, []any{tenant, before, name, limit},
		func(rows pgx.Rows) ([]Prompt, error) { return pgx.CollectRows(rows, scanPrompt) })
	if err != nil {
		return nil, fmt.Errorf("list prompts: %w", err)
	}
	return prompts, nil
}

// ListPromptVersions reads a page of a prompt's versions, the newest first, those below `before` if it is not 0.
func ListPromptVersions(ctx context.Context, pool *pgxpool.Pool, tenant, id string, before int32, limit int) ([]PromptVersion, error) {
	versions, err := query(ctx, pool, tenant, `SELECT v.version, v.template, v.variables, v.key_id, v.created_at FROM forgewire.prompt_versions v
		WHERE v.tenant = $1 AND v.prompt_id = $2 AND ($3 = 0 OR v.version < $3) ORDER BY v.version DESC LIMIT $4`, []any{tenant, id, before, limit},
		func(rows pgx.Rows) ([]PromptVersion, error) {
			return pgx.CollectRows(rows, func(row pgx.CollectableRow) (PromptVersion, error) {
				var v PromptVersion
				err := row.Scan(v.fields()...)
				return v, err
			})
		})
	if err != nil {
		return nil, fmt.Errorf("list a prompt's versions: %w", err)
	}
	return versions, nil
}

// CreatePrompt stores a prompt with its first version. ErrConflict: the tenant has one of that name.
func CreatePrompt(ctx context.Context, tx pgx.Tx, tenant, id, name string, v PromptVersion) (Prompt, error) {
	v.Version = 1
	p := Prompt{ID: id, Name: name, Newest: v.Version, Labels: map[string]int32{}, PromptVersion: v}
	b := &pgx.Batch{} // one round trip
	b.Queue(`INSERT INTO forgewire.prompts (tenant, id, name) VALUES ($1, $2, $3) RETURNING revision, created_at, updated_at`, tenant, id, name)
	b.Queue(newVersion+" RETURNING created_at", v.row(tenant, id)...)
	results := tx.SendBatch(ctx, b)
	defer results.Close() // what went wrong was returned by the results
	if err := results.QueryRow().Scan(&p.Revision, &p.Created, &p.Updated); err != nil {
		return Prompt{}, orConflict("create a prompt", err)
	}
	if err := results.QueryRow().Scan(&p.Made); err != nil {
		return Prompt{}, fmt.Errorf("insert a version of a prompt: %w", err)
	}
	return p, nil
}

func orConflict(what string, err error) error {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		switch pg.Code {
		case "23505": // unique_violation
			return ErrConflict
		case "23503", "23001": // foreign_key_violation, restrict_violation
			return ErrInUse
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

const newVersion = `INSERT INTO forgewire.prompt_versions (tenant, prompt_id, version, template, variables, key_id)
	VALUES ($1, $2, $3, $4, $5, $6)`

func (v *PromptVersion) row(tenant, id string) []any {
	return []any{tenant, id, v.Version, v.Template, v.Variables, v.KeyID}
}

func insertVersion(ctx context.Context, tx pgx.Tx, tenant, id string, v PromptVersion) error {
	_, err := tx.Exec(ctx, newVersion, v.row(tenant, id)...)
	if err != nil {
		return fmt.Errorf("insert a version of a prompt: %w", err)
	}
	return nil
}

// LockPrompt holds a prompt until the transaction ends, so that two writers come one after the other, and
// returns it as it is.
func LockPrompt(ctx context.Context, tx pgx.Tx, tenant, id string) (Prompt, error) {
	var one int
	err := tx.QueryRow(ctx, `SELECT 1 FROM forgewire.prompts WHERE tenant = $1 AND id = $2 FOR UPDATE`, tenant, id).Scan(&one)
	if err != nil {
		return Prompt{}, orNotFound("lock a prompt", err)
	}
	return ReadPromptTx(ctx, tx, tenant, id, PromptChoice{})
}

// AddPromptVersion adds a version to a prompt that the transaction has locked.
func AddPromptVersion(ctx context.Context, tx pgx.Tx, tenant string, p Prompt, v PromptVersion) (Prompt, error) {
	v.Version = p.Newest + 1
	if err := insertVersion(ctx, tx, tenant, p.ID, v); err != nil {
		return Prompt{}, err
	}
	return touch(ctx, tx, tenant, p.ID, "version = $3", v.Version)
}

// RenamePrompt renames a prompt that the transaction has locked. ErrConflict: another one has the name.
func RenamePrompt(ctx context.Context, tx pgx.Tx, tenant, id, name string) (Prompt, error) {
	return touch(ctx, tx, tenant, id, "name = $3", name)
}

// SetPromptLabel points a label to a version of a locked prompt. ErrInUse means that there is no such version.
func SetPromptLabel(ctx context.Context, tx pgx.Tx, tenant, id, label string, version int32) (Prompt, error) {
	_, err := tx.Exec(ctx, `INSERT INTO forgewire.prompt_labels (tenant, prompt_id, label, version) VALUES ($1, $2, $3, $4)
		ON CONFLICT (tenant, prompt_id, label) DO UPDATE SET version = excluded.version`, tenant, id, label, version)
	if err != nil {
		return Prompt{}, orConflict("set a prompt's label", err)
	}
	return touch(ctx, tx, tenant, id, "", nil)
}

// DropPromptLabel takes a label from a locked prompt. Without that label it is ErrNotFound.
func DropPromptLabel(ctx context.Context, tx pgx.Tx, tenant, id, label string) (Prompt, error) {
	done, err := tx.Exec(ctx, `DELETE FROM forgewire.prompt_labels WHERE tenant = $1 AND prompt_id = $2 AND label = $3`, tenant, id, label)
	if err != nil {
		return Prompt{}, fmt.Errorf("drop a prompt's label: %w", err)
	}
	if done.RowsAffected() == 0 {
		return Prompt{}, ErrNotFound
	}
	return touch(ctx, tx, tenant, id, "", nil)
}

// DeletePrompt deletes a locked prompt with its versions. ErrInUse: an evaluation refers to one of them.
func DeletePrompt(ctx context.Context, tx pgx.Tx, tenant, id string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM forgewire.prompts WHERE tenant = $1 AND id = $2`, tenant, id); err != nil {
		return orConflict("delete a prompt", err)
	}
	return nil
}

// touch counts a change of a prompt, and makes the one that set says, with value as $3.
func touch(ctx context.Context, tx pgx.Tx, tenant, id, set string, value any) (Prompt, error) {
	args := []any{tenant, id}
	if set != "" {
		set, args = set+", ", append(args, value)
	}
	_, err := tx.Exec(ctx, "UPDATE forgewire.prompts SET "+set+"revision = revision + 1, updated_at = now() WHERE tenant = $1 AND id = $2", args...)
	if err != nil {
		return Prompt{}, orConflict("change a prompt", err)
	}
	return ReadPromptTx(ctx, tx, tenant, id, PromptChoice{})
}

// Tell publishes a change of a resource on its channel when the transaction commits. Replicas that have something of it in
// their caches overhear that.
func Tell(ctx context.Context, tx pgx.Tx, channel string, change []byte) error {
	if err := Later(ctx, tx, "SELECT forgewire.publish($1, $2::text::jsonb)", channel, string(change)); err != nil {
		return fmt.Errorf("tell of a change: %w", err)
	}
	return nil
}
