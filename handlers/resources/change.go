package resources

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/handlers/problem"
)

// typeJSON is a Content-Type that nobody changes.
var typeJSON = []string{"application/json"}

const maxIdempotencyKey = 255 // bytes

var (
	otherRequest = problem.New(http.StatusUnprocessableEntity, "idempotency_key_reused", "the Idempotency-Key came with another request before")
	changed      = problem.New(http.StatusPreconditionFailed, "precondition_failed", "it was changed in between: read it again")
	needsMatch   = problem.New(http.StatusPreconditionRequired, "precondition_required", "send the ETag of what you read as If-Match, or * to overwrite whatever is there")
)

// reply is the answer to a change.
type reply struct {
	status   int
	body     any // nil for none
	etag     string
	location string
	// What every replica must forget, "" for nothing: see the invalidator.
	forget string
	// What is done in the background when the change is made; nil for nothing.
	queue *job
}

// change runs f in a transaction of the tenant and answers with what it returns. With an Idempotency-Key, the
// answer becomes part of the transaction, so a request that is sent again finds it if, and only if, the change
// was made; one that failed may be sent again.
func (c *call) change(f func(pgx.Tx) (reply, error)) error {
	key, err := c.idempotencyKey()
	if err != nil {
		return err
	}
	var answer db.Answer
	err = c.write(func(tx pgx.Tx) (forget string, err error) {
		if key != "" {
			fingerprint := c.fingerprint()
			earlier, err := db.ClaimAnswer(c.ctx, tx, key, fingerprint)
			if err != nil {
				return "", err
			}
			if earlier != nil {
				answer = *earlier
				if subtle.ConstantTimeCompare(earlier.Fingerprint, fingerprint) != 1 {
					return "", otherRequest
				}
				answer.Header["Idempotency-Replayed"] = "true"
				return "", nil
			}
		}
		made, err := f(tx)
		if err != nil {
			return "", err
		}
		if answer, err = made.answer(); err != nil {
			return "", err
		}
		if key != "" {
			if err = db.KeepAnswer(c.ctx, tx, c.tenant, key, answer); err != nil {
				return "", err
			}
		}
		if made.queue != nil {
			if err = c.enqueue(tx, made.queue); err != nil {
				return "", err
			}
		}
		return made.forget, nil
	})
	if err != nil {
		return err
	}
	c.answer(answer)
	return nil
}

// write runs f in a transaction of the tenant. When it returns, every replica has forgotten what f said, so that nobody who
// has the answer finds the old one.
func (c *call) write(f func(pgx.Tx) (forget string, err error)) error {
	var forget string
	err := db.InTenant(c.ctx, c.s.pool, c.tenant, func(tx pgx.Tx) (err error) {
		c.s.heard.unchanged(forget) // of a try that lost to another transaction
		if forget, err = f(tx); err != nil {
			forget = ""
			return err
		}
		c.s.heard.changes(forget)
		return nil
	})
	if err != nil {
		c.s.heard.unchanged(forget)
		return err
	}
	c.s.heard.changed(c.ctx, forget)
	return nil
}

// idempotencyKey returns the request's key, "" if it has none or its method needs none.
func (c *call) idempotencyKey() (string, error) {
	values := c.r.Header.Values("Idempotency-Key")
	if len(values) == 0 || c.r.Method != http.MethodPost {
		return "", nil
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", problem.Bad("invalid_idempotency_key", "Idempotency-Key", "the Idempotency-Key must be one header of 1 to 255 printable ASCII characters")
	}
	return key, nil
}

// fingerprint tells requests apart that come with the same idempotency key.
func (c *call) fingerprint() []byte {
	h := sha256.New()
	fmt.Fprintf(h, "%s %d:%s", c.r.Method, len(c.r.URL.RequestURI()), c.r.URL.RequestURI())
	h.Write(c.raw)
	return h.Sum(nil)
}

func (a reply) answer() (db.Answer, error) {
	answer := db.Answer{Status: a.status, Header: map[string]string{}}
	if a.etag != "" {
		answer.Header["Etag"] = a.etag
	}
	if a.location != "" {
		answer.Header["Location"] = a.location
	}
	if a.body != nil {
		var err error
		if answer.Body, err = json.Marshal(a.body); err != nil {
			return answer, fmt.Errorf("encode the answer: %w", err)
		}
	}
	return answer, nil
}

func (c *call) answer(a db.Answer) {
	h := c.w.Header()
	for name, value := range a.Header {
		h.Set(name, value)
	}
	if len(a.Body) > 0 {
		h["Content-Type"] = typeJSON
	}
	c.w.WriteHeader(a.Status)
	if _, err := c.w.Write(a.Body); err != nil && len(a.Body) > 0 {
		c.s.logger.DebugContext(c.ctx, "a response could not be sent", "error", err)
	}
}

// show answers a read.
func (c *call) show(body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	c.answer(db.Answer{Status: http.StatusOK, Body: b})
	return nil
}

// match compares the If-Match of a change with the ETag of what is there, which the transaction has locked. A
// proxy that compresses makes the tag a weak one; it still names the same revision, so W/ is no reason to refuse.
func (c *call) match(etag string, required bool) error {
	values := c.r.Header.Values("If-Match")
	if len(values) == 0 {
		if required {
			return needsMatch
		}
		return nil
	}
	if names(values, etag) {
		return nil
	}
	return changed
}

// names says whether a list of ETags has this one in it, or is *.
func names(values []string, etag string) bool {
	for v := range strings.SplitSeq(strings.Join(values, ","), ",") {
		if v = strings.TrimSpace(v); v == "*" || strings.TrimPrefix(v, "W/") == etag {
			return true
		}
	}
	return false
}

// etagOf is the ETag of a resource that counts its changes.
func etagOf(revision int64) string { return fmt.Sprintf(`"%d"`, revision) }

// tell publishes a change of a tenant's resources, in its transaction, on the channel of the namespace that is theirs.
func tell(ctx context.Context, tx pgx.Tx, namespace, tenant string, change any) error {
	b, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encode a change: %w", err)
	}
	return db.Tell(ctx, tx, "$"+namespace+":"+tenant, b)
}
