package handlers

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"forgewire/handlers/access"
	"forgewire/infra/logging"
	"forgewire/realtime"
)

// maxRequestID bounds an id that we take over from whoever is in front of us.
const maxRequestID = 64

// requestID gives each request an id, or keeps the one that a proxy gave it. It is on each of the request's
// log lines and in its response.
func (s *server) requestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !plain(id) {
			id = strconv.FormatUint(rand.Uint64(), 36)
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(logging.WithRequestID(r.Context(), id)))
	})
}

// use wakes a replica that rests, and keeps it awake while a request needs it. It stands behind what lets requests
// through: what platforms ask all day, and what strangers try, must not wake a database that sleeps.
func (s *server) use(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.node.Use(r.Context())()
		next.ServeHTTP(w, r)
	})
}

// authenticate lets requests through that have a good key, and uses the replica for them. One that rested may not have
// heard that the key was revoked: it looks again.
func (s *server) authenticate(gate *access.Gate) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		again := gate.Authenticate(next)
		first := gate.Authenticate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rested := s.node.Resting()
			defer s.node.Use(r.Context())()
			if rested {
				again.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		}))
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer s.node.LetGo() // of what it took to find out that a key is wrong
			first.ServeHTTP(w, r)
		})
	}
}

func plain(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// recover keeps a bug in one handler from ending the process. The request itself is not logged: it may hold
// a token.
func (s *server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v) // net/http's own way to end a response
			}
			s.logger.ErrorContext(r.Context(), "a handler panicked", "panic", v, "stack", string(debug.Stack()))
			s.fail(w, r, http.StatusInternalServerError, realtime.ErrInternal)
		}()
		next.ServeHTTP(w, r)
	})
}

// authorize lets a request through that has the API key. Hashes of equal length are compared, in constant
// time, so that neither the key nor its length can be guessed by timing.
func (s *server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.hasKey {
			s.fail(w, r, http.StatusForbidden, apiDisabled)
			return
		}
		key := r.Header.Get("X-API-Key")
		if key == "" {
			scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if strings.EqualFold(scheme, "apikey") {
				key = value
			}
		}
		given := sha256.Sum256([]byte(key))
		if subtle.ConstantTimeCompare(given[:], s.keyHash[:]) != 1 {
			s.fail(w, r, http.StatusUnauthorized, unauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
