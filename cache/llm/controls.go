package llm

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Classes of answers, by how long they are worth keeping.
const (
	ClassPrompt     = "prompt_response"
	ClassEvaluation = "evaluation_result"
	ClassSystem     = "system_prompt"
)

// Headers of ours.
const (
	HeaderClass = "Forgewire-Cache-Class" // a request's class
	HeaderTags  = "Forgewire-Cache-Tags"  // names under which the answer is purged, with commas
	HeaderLog   = "Forgewire-Log-Bodies"  // whether the run log keeps what is asked and answered
	HeaderID    = "Forgewire-Id"          // a streamed answer's id
)

const maxTags = 8

// controls are what a request wants of the cache.
type controls struct {
	class        string
	tags         []string
	noCache      bool          // do not answer from the cache; what comes is stored
	noStore      bool          // do not have it in the cache at all
	onlyIfCached bool          // do not ask the upstream
	maxAge       time.Duration // -1 for any
	logBodies    *bool         // nil: as the key has it
}

func readControls(h http.Header) (controls, *Refusal) {
	c := controls{class: ClassPrompt, maxAge: -1}
	if v := h.Get(HeaderClass); v != "" {
		if v != ClassPrompt && v != ClassEvaluation && v != ClassSystem {
			return c, invalid("invalid_cache_class", HeaderClass+" must be prompt_response, evaluation_result or system_prompt", "")
		}
		c.class = v
	}
	if v := h.Get(HeaderLog); v != "" {
		if v != "true" && v != "false" {
			return c, invalid("invalid_log_bodies", HeaderLog+" must be true or false", "")
		}
		c.logBodies = new(v == "true")
	}
	for tag := range strings.SplitSeq(strings.Join(h.Values(HeaderTags), ","), ",") {
		if tag = strings.TrimSpace(tag); tag == "" {
			continue
		}
		if c.tags = append(c.tags, tag); len(c.tags) > maxTags || !isTag(tag) {
			return c, invalid("invalid_cache_tags", fmt.Sprintf("%s takes %d tags of 1 to 64 letters, digits and any of _-.:", HeaderTags, maxTags), "")
		}
	}
	for d := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(name) {
		case "no-cache":
			c.noCache = true
		case "no-store":
			c.noStore = true
		case "only-if-cached":
			c.onlyIfCached = true
		case "max-age":
			n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32)
			if err != nil || n < 0 {
				return c, invalid("invalid_cache_control", "max-age in Cache-Control must be a number of seconds", "")
			}
			c.maxAge = time.Duration(n) * time.Second
		}
	}
	return c, nil
}

func isTag(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("_-.:", c) {
			return false
		}
	}
	return true
}

// fresh says whether an answer of that age is what the request wants.
func (c *controls) fresh(age time.Duration) bool { return c.maxAge < 0 || age <= c.maxAge }

// Mode says which requests are answered from the cache.
type Mode string

// The modes of FORGEWIRE_LLM_CACHE.
const (
	CacheAll           Mode = "all"
	CacheDeterministic Mode = "deterministic" // with temperature 0 or a seed, and embeddings
	CacheOff           Mode = "off"
)

// cacheable says whether the answer may be given to others: not if the request changes something at the upstream, or
// depends on what is there.
func (m Mode) cacheable(req *request) bool {
	if m == CacheOff || m == CacheDeterministic && !req.exact {
		return false
	}
	if req.endpoint == responses && (req.body.get("conversation").has() || req.body.get("background").kind == 't') {
		return false
	}
	return !req.controls.noStore
}

// status is Cache-Status, RFC 9211.
func status(params ...string) string { return "forgewire; " + strings.Join(params, "; ") }

// setCacheHeaders says what the cache had to do with an answer.
func setCacheHeaders(h http.Header, how Outcome, req *request, age, ttl time.Duration) {
	id := `key="` + req.key.String() + `"`
	seconds := strconv.FormatInt(int64(ttl/time.Second), 10)
	switch how {
	case Hit:
		h.Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
		h.Set("Cache-Status", status("hit", "ttl="+seconds, id))
	case Stale:
		h.Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
		h.Set("Cache-Status", status("hit", "ttl="+seconds, id, "detail=stale-if-error"))
	case Collapsed:
		h.Set("Cache-Status", status("fwd=miss", "collapsed", id))
	case Miss:
		why := "fwd=miss"
		if req.controls.noCache || req.controls.maxAge >= 0 {
			why = "fwd=request"
		}
		h.Set("Cache-Status", status(why, id))
	case Bypass:
		h.Set("Cache-Status", status("fwd=bypass"))
	}
}
