package handlers

import (
	"io"
	"net/http"

	"forgewire/handlers/problem"
	"forgewire/handlers/resources"
	"forgewire/infra/memory"
	"forgewire/realtime"
)

// bodyCost is how often a body is in memory before its request is answered: as it came, decoded, encoded for
// the database, and in buffers that grew for it.
const bodyCost = 4

var errShedding = &realtime.Error{Code: 111, Message: "memory is short, try again soon", Temporary: true}

// guard puts a route of the resources behind what its size asks for. An export or an import holds one chunk, but goes
// on for long: none begins while memory is short. Any other body is held whole.
func (s *server) guard(route resources.Route, next http.HandlerFunc) http.Handler {
	switch {
	case route.Stream && len(route.RequestTypes) > 0:
		return s.shed(observeUpload(next))
	case route.Stream:
		return s.shed(s.observeStream(next))
	case route.Request != nil:
		return s.weigh(next)
	}
	return next
}

// shed refuses requests whose bodies or answers may be large while memory is short.
func (s *server) shed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.memory != nil && s.memory.Shedding() {
			if problem.Wanted(r.URL.Path) {
				problem.MemoryShort.Write(w)
				return
			}
			s.fail(w, r, http.StatusServiceUnavailable, errShedding)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// weigh counts what bodies hold in memory until their requests are answered. One that does not fit fails to
// be read, and body answers 503: many large requests at once cannot take more than their share.
func (s *server) weigh(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.memory == nil || r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		b := &weighed{ReadCloser: r.Body, memory: s.memory}
		defer b.release()
		r.Body = b
		next.ServeHTTP(w, r)
	})
}

// weighed is a body that reserves memory as it is read. It belongs to the request's goroutine.
type weighed struct {
	io.ReadCloser
	memory   *memory.Governor
	reserved int64
}

func (b *weighed) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 && !b.memory.Reserve(int64(n)*bodyCost) {
		return 0, memory.ErrShort
	}
	b.reserved += int64(n) * bodyCost
	return n, err
}

func (b *weighed) release() { b.memory.Release(b.reserved) }
