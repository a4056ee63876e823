package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/handlers/access"
)

// httpTenant is whose everything is.
const httpTenant = "bench"

// httpSystem is a replica and beside it the floor and perhaps the sketch, on one database; or a deployment, of which there
// is only the address.
type httpSystem struct {
	*stack
	floor  *replica
	sketch *replica // nil where it is not asked for
	base   *url.URL
	key    string // of the tenant
	id     string // of the prompt that is read
	sent   atomic.Int64
}

func startHTTP(ctx context.Context, cfg HTTPConfig) (s *httpSystem, err error) {
	s = &httpSystem{}
	if cfg.Target.Given() {
		return s, s.deployed(ctx, cfg.Target)
	}
	fmt.Fprintln(cfg.Progress, "starting a private PostgreSQL, Valkey, a replica and the floor")
	s.stack, err = cfg.start(ctx, stackConfig{Replicas: 1, Valkey: true})
	if err != nil {
		return nil, err
	}
	s.base = s.replicas[0].url
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop(ctx))
		}
	}()
	if err = s.fill(ctx, cfg.Rows); err != nil {
		return nil, err
	}
	answer, err := s.makePrompt(ctx)
	if err != nil {
		return nil, err
	}
	s.floor, err = startServer(ctx, cfg.Binary, []string{"bench", "floor", "--tenant", httpTenant, "--constant", strconv.Itoa(len(answer))},
		append(goVariables(cfg.Environ), "DATABASE_URL="+s.database, "FORGEWIRE_LOG_LEVEL=warn"))
	if err == nil && cfg.Sketch != "" {
		err = s.startSketch(ctx, cfg.Sketch)
	}
	return s, err
}

// deployed is one that runs elsewhere, in which a prompt is made.
func (s *httpSystem) deployed(ctx context.Context, t Target) error {
	urls, err := t.parse()
	if err != nil {
		return err
	}
	s.base, s.key = urls[0], t.Key
	s.sent.Store(time.Now().UnixNano()) // names are of one run alone
	_, err = s.makePrompt(ctx)
	return err
}

func (s *httpSystem) stop(ctx context.Context) error {
	if s.stack == nil {
		return nil
	}
	var err error
	for _, r := range []*replica{s.sketch, s.floor} {
		if r != nil {
			err = errors.Join(err, r.stop())
		}
	}
	return errors.Join(err, s.stack.stop(ctx))
}

// fill makes the tenant's key, and runs to export.
func (s *httpSystem) fill(ctx context.Context, rows int) error {
	conn, err := pgx.Connect(ctx, s.database)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	k := db.Key{Tenant: httpTenant, Name: "bench"}
	k.ID, s.key, k.Hash = access.NewKey()
	if err = db.CreateKey(ctx, conn, k); err != nil {
		return err
	}
	runs := make([]db.Run, rows)
	now := time.Now()
	for i := range runs {
		runs[i] = db.Run{ID: fmt.Sprintf("run_%012d", i), Started: now.Add(-time.Duration(i+1) * time.Millisecond), Tenant: httpTenant,
			AnswerID: fmt.Sprintf("ans_%020d", i), KeyID: k.ID, Endpoint: "chat/completions", Model: "gpt-4o-mini", Upstream: "default", Status: http.StatusOK,
			Cache: "miss", RequestHash: fmt.Sprintf("%064x", i), PromptTokens: 300, CompletionTokens: 100, Duration: 800 * time.Millisecond}
	}
	const chunk = 5000 // of an INSERT
	for first := 0; first < rows; first += chunk {
		if err = db.InsertRuns(ctx, conn, runs[first:min(first+chunk, rows)]); err != nil {
			return err
		}
	}
	if _, err = conn.Exec(ctx, floorTable); err != nil {
		return fmt.Errorf("make the floor's table: %w", err)
	}
	if _, err = conn.Exec(ctx, "VACUUM ANALYZE"); err != nil { // or it runs in the middle of something
		return fmt.Errorf("vacuum: %w", err)
	}
	return nil
}

// makePrompt makes the prompt that is read, and returns what a read answers.
func (s *httpSystem) makePrompt(ctx context.Context) ([]byte, error) {
	c, err := dialRaw(ctx, s.base)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var body bytes.Buffer
	status, _, err := c.do(s.write(nil, int(s.sent.Load())), &body)
	var made struct{ ID string }
	if err == nil && status == http.StatusCreated {
		err = json.Unmarshal(body.Bytes(), &made)
	}
	if err != nil || made.ID == "" {
		return nil, fmt.Errorf("make a prompt: status %d: %.200s: %w", status, body.Bytes(), errors.Join(err, errUnexpected))
	}
	s.id = made.ID
	for _, how := range []string{"", "Cache-Control: no-cache\r\n"} {
		body.Reset()
		if status, _, err = c.do(s.get(nil, "/v1/prompts/"+s.id, how), &body); err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("read a prompt: status %d: %.200s: %w", status, body.Bytes(), errors.Join(err, errUnexpected))
		}
	}
	return body.Bytes(), nil
}

var errUnexpected = errors.New("the answer is not what it should be")

// processes are those that work for one side.
func (s *httpSystem) processes(process string) watched {
	w := s.system().watched
	switch process {
	case bareHandler:
		pid := s.floor.pid
		delete(w, "replicas")
		delete(w, "valkey")
		w["floor"] = func() []int { return []int{pid} }
	case guideSketch:
		delete(w, "replicas")
		w["sketch"] = serverAndChildren(s.sketch.pid)
	}
	return w
}

func (s *httpSystem) get(buf []byte, path, header string) []byte {
	return fmt.Appendf(buf, "GET %s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s\r\n", s.base.Path, path, s.base.Host, s.key, header)
}

// promptTemplate is what prompts of the benchmark say.
const promptTemplate = "You are the assistant of {{shop}}. Answer {{name}} in one paragraph, and only about its goods: {{question}}"

func (s *httpSystem) write(buf []byte, n int) []byte {
	body := fmt.Sprintf(`{"name":"bench %d","template":%q}`, n, promptTemplate)
	return fmt.Appendf(buf, "POST %s/v1/prompts HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		s.base.Path, s.base.Host, s.key, len(body), body)
}

// writes is the case that writes.
const writes = "write"

// httpKind is a case, as it is asked.
type httpKind struct {
	name, does          string
	ours, floor, sketch httpSide
	start               float64 // the first rate of the ramp
	target, least       float64 // wanted beside the floor and beside the sketch
}

// kinds are the cases.
func (s *httpSystem) kinds() []httpKind {
	ours := func(status int, request func([]byte, int) []byte) httpSide {
		return httpSide{base: s.base, process: "forgewire", want: status, request: request, sent: &s.sent}
	}
	beside := func(r *replica, process string) func(int, func([]byte, int) []byte) httpSide {
		return func(status int, request func([]byte, int) []byte) httpSide {
			if r == nil {
				return httpSide{}
			}
			return httpSide{base: r.url, process: process, want: status, request: request, sent: &s.sent}
		}
	}
	bare, sketch := beside(s.floor, bareHandler), beside(s.sketch, guideSketch)
	get := func(path, header string) func([]byte, int) []byte {
		return func(buf []byte, _ int) []byte { return s.get(buf, path, header) }
	}
	insert := func(buf []byte, n int) []byte {
		return bytes.Replace(s.write(buf, n), []byte("/v1/prompts"), []byte("/insert"), 1)
	}
	one := "/v1/prompts/" + s.id
	kinds := []httpKind{
		{name: "cached read", does: "constant bytes, as many", start: 2000, target: 0.6, least: 3,
			ours: ours(http.StatusOK, get(one, "")), floor: bare(http.StatusOK, get("/constant", "")), sketch: sketch(http.StatusOK, get("/cached/"+s.id, ""))},
		{name: "uncached read", does: "the same SELECT, no tenant", start: 250, target: 0.8, least: 4,
			ours: ours(http.StatusOK, get(one, "Cache-Control: no-cache\r\n")), floor: bare(http.StatusOK, get("/select/"+s.id, "")),
			sketch: sketch(http.StatusOK, get("/select/"+s.id, ""))},
		{name: "uncached read beside the same protection", does: "the same SELECT for a tenant, under row-level security", start: 250,
			ours: ours(http.StatusOK, get(one, "Cache-Control: no-cache\r\n")), floor: bare(http.StatusOK, get("/protected/"+s.id, ""))},
		{name: writes, does: "one INSERT of one row", start: 100, least: 4,
			ours: ours(http.StatusCreated, s.write), floor: bare(http.StatusCreated, insert), sketch: sketch(http.StatusCreated, insert)},
		{name: "export", does: "one SELECT of all, each row encoded as it comes", start: 2,
			ours: ours(http.StatusOK, get("/v1/runs/export", "")), floor: bare(http.StatusOK, get("/export", ""))},
	}
	if s.floor == nil { // what only its floor tells apart, and an export of who knows how much
		kinds = []httpKind{kinds[0], kinds[1], kinds[3]}
	}
	return kinds
}
