package admin

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"forgewire/db"
	"forgewire/handlers/access"
	"forgewire/handlers/page"
	"forgewire/handlers/resources"
	"forgewire/realtime"
)

// Path is where the dashboard is.
const Path = "/admin"

//go:embed assets
var assets embed.FS

//go:embed login.html
var loginPage string

// Config says how the dashboard works.
type Config struct {
	Password  string // at least MinPassword bytes; "" for none
	OIDC      *OIDC  // nil for none; one of the two is required
	Key       []byte // signs sessions; Key makes one
	Tokens    realtime.TokenConfig
	Node      *realtime.Node
	Gate      *access.Gate
	Resources *resources.Service
	Pool      db.Querier
	Logger    *slog.Logger
	Version   string
}

// MinPassword is how long a password must be, in bytes.
const MinPassword = 12

// Admin is the dashboard. It is safe for concurrent use.
type Admin struct {
	cfg      Config
	password [sha256.Size]byte
	sessions sessions
	attempts *attempts
	provider *provider // nil for none
	files    page.Set
	figures  func(context.Context) (any, error) // fixed once Run has begun
}

// New makes a dashboard; Run starts it.
func New(cfg Config) (*Admin, error) {
	if cfg.OIDC == nil && cfg.Password == "" || cfg.Password != "" && len(cfg.Password) < MinPassword || len(cfg.Key) == 0 || cfg.Node == nil || cfg.Gate == nil || cfg.Resources == nil || cfg.Pool == nil || cfg.Logger == nil {
		return nil, errors.New("admin: Password or OIDC, Key, Node, Gate, Resources, Pool and Logger are required")
	}
	a := &Admin{cfg: cfg, password: sha256.Sum256([]byte(cfg.Password)), sessions: sessions{key: cfg.Key}, attempts: newAttempts(),
		files: page.Files(assets, "assets")}
	if cfg.OIDC != nil {
		a.provider = newProvider(*cfg.OIDC)
	}
	return a, nil
}

// OnFigures sets where the figures of all replicas come from.
func (a *Admin) OnFigures(figures func(context.Context) (any, error)) { a.figures = figures }

// Routes serves the dashboard below Path.
func (a *Admin) Routes() http.Handler {
	r := chi.NewRouter()
	// Beside the cookie, which other sites' requests do not carry: no other site's page may change anything.
	r.Use(func(next http.Handler) http.Handler { return page.Guard("'self'", next) }, http.NewCrossOriginProtection().Handler)
	r.Get("/", a.home)
	if a.cfg.Password != "" {
		r.Post("/login", a.postLogin)
	}
	if a.provider != nil {
		r.Get("/login/oidc", a.startOIDC)
		r.Get(strings.TrimPrefix(CallbackPath, Path), a.finishOIDC)
	}
	r.Post("/logout", a.postLogout)
	r.Handle("/assets/*", http.StripPrefix(Path+"/assets/", a.files))
	r.Route("/api", func(r chi.Router) {
		r.Use(a.authenticate)
		r.Get("/session", a.getSession)
		r.Get("/channels", a.getChannels)
		r.Get("/channel", a.getChannel)
		r.Post("/publish", a.postPublish)
		r.Get("/keys", a.getKeys)
		r.Post("/keys", a.postKey)
		r.Delete("/keys/{id}", a.deleteKey)
		r.Get("/tenants/{tenant}/runs", a.asTenant(a.cfg.Gate.ListRuns))
		r.Get("/tenants/{tenant}/usage", a.asTenant(a.cfg.Gate.Usage))
		r.Get("/tenants/{tenant}/prompts", a.asTenant(a.cfg.Resources.Handler("list_prompts")))
		r.Get("/tenants/{tenant}/evaluations", a.asTenant(a.cfg.Resources.Handler("list_evaluations")))
	})
	return r
}

// home shows the dashboard, or the login.
func (a *Admin) home(w http.ResponseWriter, r *http.Request) {
	if _, ok := a.session(r); !ok {
		a.showLogin(w, http.StatusOK, "")
		return
	}
	a.files["index.html"].ServeHTTP(w, r)
}

// problem is what an error looks like to the page.
type problem struct {
	Error string `json:"error"`
}

func (a *Admin) fail(w http.ResponseWriter, r *http.Request, status int, why string) {
	a.write(w, r, status, problem{why})
}

// failed answers for what went wrong on our side, or says what is wrong with the request.
func (a *Admin) failed(w http.ResponseWriter, r *http.Request, err error) {
	var e *realtime.Error
	switch {
	case errors.As(err, &e) && !e.Temporary:
		a.fail(w, r, http.StatusBadRequest, e.Message)
	case r.Context().Err() != nil: // who asked has left
	default:
		a.cfg.Logger.WarnContext(r.Context(), "the dashboard could not be served", "error", err)
		w.Header().Set("Retry-After", "1")
		a.fail(w, r, http.StatusServiceUnavailable, "this did not work just now, try again: the log says why")
	}
}

func (a *Admin) write(w http.ResponseWriter, r *http.Request, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		a.cfg.Logger.ErrorContext(r.Context(), "a response could not be encoded", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"error":"internal server error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a browser that left needs no answer
}

// queryTimeout bounds what one request asks of the database and of other replicas.
const queryTimeout = 5 * time.Second

// read decodes a request's body.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return realtime.ErrBadRequest.With("the body is not understood")
	}
	return nil
}

const maxBody = 2 << 20
