package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// FloorConfig says how to serve the floor.
type FloorConfig struct {
	Port     int
	Database string // URL
	MaxConns int
	Tenant   string // whose rows are read
	Constant int    // bytes of the constant answer
}

// floorTable is what the floor writes to.
const floorTable = `CREATE TABLE public.bench_floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, template text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`

// Floor serves, until ctx ends, what the HTTP benchmark compares a replica with: net/http and pgx with nothing in between.
// It has no key, no tenant, no limits, no metrics.
func Floor(ctx context.Context, cfg FloorConfig) error {
	pc, err := pgxpool.ParseConfig(cfg.Database)
	if err != nil {
		return errors.New("the floor's database URL is not valid") // pgx's own error quotes it
	}
	pc.MaxConns = int32(cfg.MaxConns)
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return fmt.Errorf("make the floor's pool: %w", err)
	}
	defer pool.Close()
	server := &http.Server{Handler: (&floor{pool, cfg.Tenant, bytes.Repeat([]byte("x"), cfg.Constant)}).routes(), ReadHeaderTimeout: 5 * time.Second}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen for the floor: %w", err)
	}
	var g errgroup.Group
	g.Go(func() error {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the floor: %w", err)
		}
		return nil
	})
	<-ctx.Done()
	_ = server.Close() // nobody waits for an answer
	return g.Wait()    //nolint:wrapcheck // it says what was attempted
}

type floor struct {
	pool     *pgxpool.Pool
	tenant   string
	constant []byte
}

func (f *floor) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", f.serve(http.StatusOK, func(r *http.Request) (any, error) { return "ready", f.pool.Ping(r.Context()) }))
	mux.HandleFunc("GET /constant", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(f.constant) // who left needs none
	})
	mux.HandleFunc("GET /select/{id}", f.serve(http.StatusOK, f.prompt))
	mux.HandleFunc("GET /protected/{id}", f.serve(http.StatusOK, f.protected))
	mux.HandleFunc("POST /insert", f.serve(http.StatusCreated, f.insert))
	mux.HandleFunc("GET /export", f.export)
	return mux
}

func (f *floor) serve(status int, answer func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := answer(r)
		var b []byte
		if err == nil {
			b, err = json.Marshal(v)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(b) // who left needs none
	}
}

type floorPrompt struct {
	ID        string           `json:"id"`
	Name      string           `json:"name"`
	Revision  int64            `json:"revision"`
	Newest    int32            `json:"newest_version"`
	Created   time.Time        `json:"created_at"`
	Updated   time.Time        `json:"updated_at"`
	Labels    map[string]int32 `json:"labels"`
	Version   int32            `json:"version"`
	Template  string           `json:"template"`
	Variables []string         `json:"variables"`
	KeyID     string           `json:"key_id"`
	Made      time.Time        `json:"made_at"`
}

const selectPrompt = `SELECT p.id, p.name, p.revision, p.version, p.created_at, p.updated_at,
	coalesce((SELECT jsonb_object_agg(l.label, l.version) FROM forgewire.prompt_labels l WHERE l.tenant = p.tenant AND l.prompt_id = p.id), '{}'),
	v.version, v.template, v.variables, v.key_id, v.created_at
	FROM forgewire.prompts p JOIN forgewire.prompt_versions v ON v.tenant = p.tenant AND v.prompt_id = p.id
	WHERE p.tenant = $1 AND p.id = $2 AND v.version = p.version`

func (f *floor) prompt(r *http.Request) (any, error) {
	return scanFloorPrompt(f.pool.QueryRow(r.Context(), selectPrompt, f.tenant, r.PathValue("id")))
}

// protected is the same read under row-level security, as a replica does it.
func (f *floor) protected(r *http.Request) (any, error) {
	b := &pgx.Batch{}
	b.Queue("SELECT forgewire.enter($1)", f.tenant)
	b.Queue(selectPrompt, f.tenant, r.PathValue("id"))
	results := f.pool.SendBatch(r.Context(), b)
	defer results.Close() // what went wrong was returned by the two results
	if _, err := results.Exec(); err != nil {
		return nil, fmt.Errorf("enter the tenant: %w", err)
	}
	return scanFloorPrompt(results.QueryRow())
}

func scanFloorPrompt(row pgx.Row) (p floorPrompt, err error) {
	err = row.Scan(&p.ID, &p.Name, &p.Revision, &p.Newest, &p.Created, &p.Updated, &p.Labels, &p.Version, &p.Template, &p.Variables, &p.KeyID, &p.Made)
	if err != nil {
		return p, fmt.Errorf("read a prompt: %w", err)
	}
	return p, nil
}

func (f *floor) insert(r *http.Request) (any, error) {
	var p struct {
		ID       int64     `json:"id"`
		Name     string    `json:"name"`
		Template string    `json:"template"`
		Created  time.Time `json:"created_at"`
	}
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	err := f.pool.QueryRow(r.Context(), "INSERT INTO public.bench_floor (name, template) VALUES ($1, $2) RETURNING id, created_at", p.Name, p.Template).Scan(&p.ID, &p.Created)
	if err != nil {
		return nil, fmt.Errorf("insert: %w", err)
	}
	return p, nil
}

type floorRun struct {
	ID          string    `json:"id"`
	Started     time.Time `json:"started"`
	AnswerID    string    `json:"answer_id"`
	KeyID       string    `json:"key_id"`
	Endpoint    string    `json:"endpoint"`
	Model       string    `json:"model"`
	Upstream    string    `json:"upstream"`
	Status      int32     `json:"status"`
	Cache       string    `json:"cache"`
	RequestHash string    `json:"request_hash"`
	Prompt      int64     `json:"prompt_tokens"`
	Completion  int64     `json:"completion_tokens"`
	Cost        *int64    `json:"cost_micros"`
	Saved       int64     `json:"saved_micros"`
	FirstToken  *float64  `json:"first_token_ms"`
	Duration    float64   `json:"duration_ms"`
	Error       string    `json:"error"`
}

const selectRuns = `SELECT id, started, answer_id, key_id, endpoint, model, upstream, status, cache, request_hash, prompt_tokens, completion_tokens,
	cost_micros, saved_micros, extract(epoch FROM first_token)::float8 * 1000, extract(epoch FROM duration)::float8 * 1000, error
	FROM forgewire.runs WHERE tenant = $1 ORDER BY started DESC, id DESC`

func (f *floor) export(w http.ResponseWriter, r *http.Request) {
	rows, err := f.pool.Query(r.Context(), selectRuns, f.tenant)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer rows.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := bufio.NewWriterSize(w, 64<<10)
	encoder := json.NewEncoder(out)
	var v floorRun
	_, err = pgx.ForEachRow(rows, []any{&v.ID, &v.Started, &v.AnswerID, &v.KeyID, &v.Endpoint, &v.Model, &v.Upstream, &v.Status, &v.Cache, &v.RequestHash,
		&v.Prompt, &v.Completion, &v.Cost, &v.Saved, &v.FirstToken, &v.Duration, &v.Error}, func() error { return encoder.Encode(&v) })
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		panic(http.ErrAbortHandler) // a part must not look like the whole
	}
}
