package fakellm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Server needs.
type Config struct {
	// Behaviours by the model's name. Other names get 404.
	Behaviours map[string]Behaviour
	// Key is demanded as the bearer token; "" demands none.
	Key string
	// RedirectTo is where the fault Redirect leads.
	RedirectTo string
}

// Call is one request that came. It is told as soon as its body was read.
type Call struct {
	Path    string
	Model   string
	Stream  bool
	Nonce   string
	Header  http.Header
	Body    []byte
	Ended   bool // the handler has returned
	Aborted bool // because the caller left
}

// keptCalls bounds what is remembered in full. Counts go on.
const keptCalls = 4096

// maxBody bounds a request.
const maxBody = 64 << 20

// Server is a model that runs.
type Server struct {
	cfg    Config
	url    string
	server *http.Server
	served chan struct{} // closed when no connection is accepted any more
	ctx    context.Context
	cancel context.CancelFunc
	active atomic.Int64

	mu         sync.Mutex
	wait       sync.WaitGroup // handlers; added to under mu
	closed     bool
	behaviours map[string]Behaviour
	faults     map[string]int // how many a model had
	counts     map[string]int // calls by model
	bodies     map[[sha256.Size]byte]int
	calls      []*Call
	nonces     int
	run        string // part of every nonce, so that two servers do not say the same
}

// Start listens on a free port of this machine.
func Start(cfg Config) (*Server, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the fake model: %w", err)
	}
	s := &Server{
		cfg: cfg, url: "http://" + l.Addr().String() + "/v1", served: make(chan struct{}),
		behaviours: map[string]Behaviour{}, faults: map[string]int{}, counts: map[string]int{},
		bodies: map[[sha256.Size]byte]int{}, run: fmt.Sprintf("%x", time.Now().UnixNano()%0xfffffff),
	}
	for name, b := range cfg.Behaviours {
		s.behaviours[name] = b
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", s.endpoint(chat))
	mux.HandleFunc("POST /v1/responses", s.endpoint(responses))
	mux.HandleFunc("POST /v1/completions", s.endpoint(completions))
	mux.HandleFunc("POST /v1/embeddings", s.endpoint(embeddings))
	mux.HandleFunc("GET /v1/models", s.models)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.served)
		_ = s.server.Serve(l) // ends with Close
	}()
	return s, nil
}

// URL is the base URL for a client, with /v1.
func (s *Server) URL() string { return s.url }

// Close ends everything that is under way and waits for it.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	_ = s.server.Close() // the connections are gone either way
	<-s.served
	s.wait.Wait()
}

// Set changes how a model behaves from now on, and forgets the faults that it had.
func (s *Server) Set(model string, b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behaviours[model] = b
	s.faults[model] = 0
}

// Count tells how many calls a model had; "" of all models.
func (s *Server) Count(model string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if model != "" {
		return s.counts[model]
	}
	n := 0
	for _, c := range s.counts {
		n += c
	}
	return n
}

// Repeated tells how many calls had a body, byte for byte, that an earlier one had.
func (s *Server) Repeated() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.bodies {
		n += c - 1
	}
	return n
}

// Calls returns the latest calls of a model, oldest first.
func (s *Server) Calls(model string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Call
	for _, c := range s.calls {
		if c.Model == model {
			out = append(out, *c)
		}
	}
	return out
}

// Active tells how many calls are under way.
func (s *Server) Active() int { return int(s.active.Load()) }

// endpoint reads and records a request and lets answer answer it.
func (s *Server) endpoint(answer func(*exchange)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.enter() {
			panic(http.ErrAbortHandler)
		}
		defer s.wait.Done()
		s.active.Add(1)
		defer s.active.Add(-1)
		if s.cfg.Key != "" && r.Header.Get("Authorization") != "Bearer "+s.cfg.Key {
			writeError(w, http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "Incorrect API key provided.")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			writeError(w, http.StatusBadRequest, "invalid_request_error", "", "The body could not be read.")
			return
		}
		x := &exchange{server: s, w: w}
		if err = json.Unmarshal(body, &x.request); err != nil {
			writeError(w, http.StatusBadRequest, "invalid_request_error", "", "We could not parse the JSON body of your request.")
			return
		}
		call, b, ok := s.record(r, body, &x.request)
		if !ok {
			writeError(w, http.StatusNotFound, "invalid_request_error", "model_not_found",
				fmt.Sprintf("The model %q does not exist.", x.request.Model))
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		x.ctx, x.behaviour, x.nonce, x.mark = ctx, b, call.Nonce, Mark(x.request.prompt())
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			call.Ended, call.Aborted = true, r.Context().Err() != nil
		}()
		if !x.statusFault() {
			answer(x)
		}
	}
}

// enter counts a handler, unless the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wait.Add(1)
	return true
}

// record remembers a call and says how to answer it.
func (s *Server) record(r *http.Request, body []byte, q *request) (*Call, Behaviour, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.behaviours[q.Model]
	s.nonces++
	call := &Call{Path: r.URL.Path, Model: q.Model, Stream: q.Stream, Header: r.Header.Clone(), Body: body,
		Nonce: fmt.Sprintf("%s-%d", s.run, s.nonces)}
	s.counts[q.Model]++
	s.bodies[sha256.Sum256(body)]++
	if s.calls = append(s.calls, call); len(s.calls) > keptCalls {
		s.calls = slices.Delete(s.calls, 0, keptCalls/2)
	}
	if b.Fault != None {
		if s.faults[q.Model]++; b.Times > 0 && s.faults[q.Model] > b.Times {
			b.Fault = None
		}
	}
	return call, b, ok
}

// models is GET /v1/models.
func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := []object{}
	for name := range s.behaviours {
		data = append(data, object{"id": name, "object": "model", "created": created, "owned_by": "fakellm"})
	}
	slices.SortFunc(data, func(a, b object) int { return strings.Compare(a["id"].(string), b["id"].(string)) })
	writeJSON(w, http.StatusOK, object{"object": "list", "data": data})
}

// Mark is what an answer to a prompt begins with, before the nonce.
func Mark(prompt string) string {
	sum := sha256.Sum256([]byte(prompt))
	return "re:" + hex.EncodeToString(sum[:6])
}

// object is a JSON object.
type object = map[string]any

// created is when all answers were made: it tells nothing, and so is always the same.
const created = 1_767_225_600

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Errorf("encode an answer: %w", err)) // all are made here, of what JSON can say
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the caller may have left
}

func writeError(w http.ResponseWriter, status int, kind, code, message string) {
	writeJSON(w, status, object{"error": errorObject(kind, code, message)})
}

func errorObject(kind, code, message string) object {
	o := object{"message": message, "type": kind, "param": nil, "code": nil}
	if code != "" {
		o["code"] = code
	}
	return o
}
