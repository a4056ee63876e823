package resources

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5"

	"forgewire/cache"
	"forgewire/db"
	"forgewire/handlers/problem"
)

// PromptNamespace is that of the channels on which changes of prompts are published: "$prompts:" and the tenant. The $
// keeps out whoever has no subscription token for this very channel, which a tenant's own back end signs.
const PromptNamespace = "prompts"

const (
	promptPrefix = "pr_"
	maxName      = 200 // bytes
	maxLabel     = 64  // letters
	// cachedLife is how long a read is kept if nobody tells that it changed.
	cachedLife = time.Hour
)

// Prompt is a prompt as it is shown: with one of its versions.
type Prompt struct {
	ID            string           `json:"id"`
	Object        string           `json:"object"`
	Name          string           `json:"name"`
	Version       int32            `json:"version"`
	NewestVersion int32            `json:"newest_version"`
	Template      string           `json:"template"`
	Variables     []string         `json:"variables"`
	Labels        map[string]int32 `json:"labels"`
	ETag          string           `json:"etag"`
	Created       time.Time        `json:"created_at"`
	Updated       time.Time        `json:"updated_at"`
}

// Version is a version of a prompt as lists show it.
type Version struct {
	Object    string    `json:"object"`
	Version   int32     `json:"version"`
	Template  string    `json:"template"`
	Variables []string  `json:"variables"`
	KeyID     *string   `json:"key_id"` // who made it; null: the server's own key
	Created   time.Time `json:"created_at"`
}

// Rendered is a template with values in place of its variables.
type Rendered struct {
	ID      string `json:"id"`
	Version int32  `json:"version"`
	Text    string `json:"text"`
}

type newPrompt struct {
	Name     string `json:"name" api:"required"`
	Template string `json:"template" api:"required"`
}

type newVersion struct {
	Template string `json:"template" api:"required"`
}

type renamed struct {
	Name string `json:"name" api:"required"`
}

type labelled struct {
	Version int32 `json:"version" api:"required"`
}

type toRender struct {
	Version   int32             `json:"version"` // of these two one, or none for the newest
	Label     string            `json:"label"`
	Variables map[string]string `json:"variables"`
}

func showPrompt(p db.Prompt) Prompt {
	return Prompt{ID: p.ID, Object: "prompt", Name: p.Name, Version: p.Version, NewestVersion: p.Newest, Template: p.Template, Variables: p.Variables,
		Labels: p.Labels, ETag: etagOf(p.Revision), Created: p.Created.UTC(), Updated: p.Updated.UTC()}
}

func createPrompt(c *call) error {
	var body newPrompt
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := checkName(body.Name); err != nil {
		return err
	}
	variables, err := variablesOf(body.Template)
	if err != nil {
		return err
	}
	return c.change(func(tx pgx.Tx) (reply, error) {
		p, err := db.CreatePrompt(c.ctx, tx, c.tenant, newID(promptPrefix), body.Name,
			db.PromptVersion{Template: body.Template, Variables: variables, KeyID: c.caller.KeyID})
		return c.changedPrompt(tx, "created", http.StatusCreated, p, err)
	})
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return problem.Bad("invalid_name", "name", fmt.Sprintf("a name has 1 to %d bytes", maxName))
	}
	return nil
}

// promptChange is what is published when a prompt changes: what to read again, and nothing of what it says.
type promptChange struct {
	Event   string `json:"event"` // created, updated, deleted
	ID      string `json:"id"`
	Version int32  `json:"version"` // the newest
	ETag    string `json:"etag"`
}

// changedPrompt tells of a change, in its transaction, and makes the answer.
func (c *call) changedPrompt(tx pgx.Tx, event string, status int, p db.Prompt, err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	if err = tell(c.ctx, tx, PromptNamespace, c.tenant, promptChange{Event: event, ID: p.ID, Version: p.Newest, ETag: etagOf(p.Revision)}); err != nil {
		return reply{}, err
	}
	a := reply{status: status, forget: tagOf(c.tenant, p.ID)}
	if status != http.StatusNoContent {
		a.body, a.etag, a.location = showPrompt(p), etagOf(p.Revision), "/v1/prompts/"+p.ID
	}
	return a, nil
}

func listPrompts(c *call) error {
	return list(c, "prompts", func(query map[string]string, after string, limit int) ([]db.Prompt, error) {
		return db.ListPrompts(c.ctx, c.s.pool, c.tenant, after, query["name"], limit)
	}, func(r db.Prompt) string { return r.ID }, showPrompt)
}

// getPrompt is the read that programs do before each request to a model, so it comes from the cache.
func getPrompt(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	id, choice, err := c.promptChoice(query["version"], query["label"])
	if err != nil {
		return err
	}
	return c.cached(id, strconv.Itoa(int(choice.Version))+" "+choice.Label, func(ctx context.Context) (string, any, error) {
		p, err := db.ReadPrompt(ctx, c.s.pool, c.tenant, id, choice)
		return etagOf(p.Revision), showPrompt(p), err
	})
}

// promptChoice reads which prompt and version is meant.
func (c *call) promptChoice(version, label string) (id string, choice db.PromptChoice, err error) {
	if id, err = c.promptID(); err != nil {
		return "", choice, err
	}
	if version != "" {
		n, err := strconv.ParseInt(version, 10, 32)
		if err != nil || n < 1 {
			return "", choice, badParameter("version", "is not a number from 1 on")
		}
		choice.Version = int32(n)
	}
	if choice.Label = label; label != "" && (version != "" || !isLabel(label)) {
		return "", choice, badParameter("label", "is not a label, or given beside a version")
	}
	return id, choice, nil
}

func (c *call) promptID() (string, error) { return c.id(promptPrefix) }

// id is the one that the path has. What is no id is not there, and the database is not asked for it.
func (c *call) id(prefix string) (string, error) {
	id := chi.URLParam(c.r, "id")
	if !isID(prefix, id) {
		return "", notFound
	}
	return id, nil
}

func isLabel(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return s != "" && len(s) <= maxLabel
}

// cached answers with what the cache has of a resource under a name, or fills it. It is kept as the ETag, a line's end, and
// the JSON that is sent. A read with Cache-Control: no-cache asks the database.
func (c *call) cached(id, name string, read func(context.Context) (etag string, body any, err error)) error {
	fill := func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		etag, body, err := read(ctx)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the answer: %w", err)
		}
		return append([]byte(etag+"\n"), b...), nil
	}
	var value []byte
	var err error
	tag := tagOf(c.tenant, id)
	if c.r.Header.Get("Cache-Control") == "no-cache" {
		value, err = fill(c.ctx)
	} else {
		var e cache.Entry
		e, err = c.s.cfg.Cache.Fetch(c.ctx, tag+" "+name, cache.FetchOptions{TTL: cachedLife, Tags: []string{tag, everything}}, fill)
		value = e.Value
	}
	if err != nil {
		return err
	}
	etag, body, _ := bytes.Cut(value, []byte("\n"))
	c.w.Header()["Etag"] = []string{string(etag)}
	if values := c.r.Header["If-None-Match"]; len(values) > 0 && names(values, string(etag)) {
		c.answer(db.Answer{Status: http.StatusNotModified})
		return nil
	}
	c.answer(db.Answer{Status: http.StatusOK, Body: body})
	return nil
}

// changePrompt changes a prompt that it has locked, if it is still what the caller has read.
func (c *call) changePrompt(matchNeeded bool, event string, status int, f func(pgx.Tx, db.Prompt) (db.Prompt, error)) error {
	id, err := c.promptID()
	if err != nil {
		return err
	}
	return c.change(func(tx pgx.Tx) (reply, error) {
		p, err := db.LockPrompt(c.ctx, tx, c.tenant, id)
		if err != nil {
			return reply{}, err
		}
		if err = c.match(etagOf(p.Revision), matchNeeded); err != nil {
			return reply{}, err
		}
		p, err = f(tx, p)
		return c.changedPrompt(tx, event, status, p, err)
	})
}

func updatePrompt(c *call) error {
	var body renamed
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := checkName(body.Name); err != nil {
		return err
	}
	return c.changePrompt(true, "updated", http.StatusOK, func(tx pgx.Tx, p db.Prompt) (db.Prompt, error) {
		return db.RenamePrompt(c.ctx, tx, c.tenant, p.ID, body.Name)
	})
}

func deletePrompt(c *call) error {
	return c.changePrompt(true, "deleted", http.StatusNoContent, func(tx pgx.Tx, p db.Prompt) (db.Prompt, error) {
		return p, db.DeletePrompt(c.ctx, tx, c.tenant, p.ID)
	})
}
