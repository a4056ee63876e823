package handlers

import (
	"io"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"forgewire/infra/monitor"
)

// observe records every request under its route's pattern.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, req := s.monitor.Begin(r.Context())
		observed := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		r = r.WithContext(ctx)
		defer func() { req.Done(patternOf(r), r.Method, statusSeen(r, observed.Status())) }() // also after a panic
		next.ServeHTTP(observed, r)
	})
}

// patternOf is the route that a request took; chi knows it when the request is over.
func patternOf(r *http.Request) string {
	c := chi.RouteContext(r.Context())
	if c.RouteMethod == "" && c.RoutePattern() == "/" {
		return ""
	}
	return c.RoutePattern()
}

// statusSeen is what a client saw. A handler that wrote none took the connection over, or left it to net/http.
func statusSeen(r *http.Request, status int) int {
	switch {
	case status != 0:
		return status
	case r.Header.Get("Upgrade") != "":
		return http.StatusSwitchingProtocols
	}
	return http.StatusOK
}

// observeStream records a request that may not end for hours when its response begins: only until then does
// anybody wait for it.
func (s *server) observeStream(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req := monitor.From(r.Context())
		next(&begun{ResponseWriter: w, begin: func(status int) { req.Done(patternOf(r), r.Method, status) }}, r)
	}
}

// begun tells when a response begins.
type begun struct {
	http.ResponseWriter
	begin func(status int)
}

// Unwrap lets an http.ResponseController reach the connection.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *begun) WriteHeader(status int) {
	b.begin(status)
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.begin(http.StatusOK) // before a slow client takes the first of it
	return b.ResponseWriter.Write(p)
}

// observeUpload records a request whose body is a stream: what it took ends when that begins to be read, and how it
// went is known in the end.
func observeUpload(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = &asked{ReadCloser: r.Body, begin: monitor.From(r.Context()).Begun}
		next(w, r)
	}
}

// asked tells when a body begins to be read.
type asked struct {
	io.ReadCloser
	begin func()
}

func (a *asked) Read(p []byte) (int, error) {
	a.begin()
	return a.ReadCloser.Read(p)
}
