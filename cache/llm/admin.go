package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"forgewire/cache"
)

// ServeStats answers GET /v1/cache/stats: what the cache has done for the caller's tenant on this replica since it
// started; for the server's own key, what it has done for all.
func (s *Service) ServeStats(w http.ResponseWriter, r *http.Request) {
	caller, known := CallerFrom(r.Context())
	if !known {
		(&Refusal{Status: http.StatusUnauthorized, Type: typeAuth, Code: "invalid_api_key", Message: "an API key is required: Authorization: Bearer …"}).Write(w)
		return
	}
	total, rows := s.statsOf(func(tenant string) bool { return caller.KeyID == "" || tenant == caller.Tenant })
	total.Model, total.Class = "all", "all"
	writeJSON(w, struct {
		Total Stats   `json:"total"`
		Rows  []Stats `json:"by_model_and_class"`
	}{total, rows})
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		(&Refusal{Status: http.StatusInternalServerError, Type: typeServer, Code: "internal_error", Message: "internal server error"}).Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(append(b, '\n')) // a client that left needs no answer
}

// purge is what POST /v1/cache/purge takes: exactly one of its fields.
type purge struct {
	Key   string `json:"key"`   // of Cache-Status
	Tag   string `json:"tag"`   // of Forgewire-Cache-Tags
	Model string `json:"model"` // as it was asked for
	All   bool   `json:"all"`   // everything of the tenant
	// Tenant is whose; only the server's own key may name another one than its own.
	Tenant string `json:"tenant"`
}

// ServePurge answers POST /v1/cache/purge. When it answers, no replica gives those answers any more.
func (s *Service) ServePurge(w http.ResponseWriter, r *http.Request) {
	caller, known := CallerFrom(r.Context())
	if !known {
		(&Refusal{Status: http.StatusUnauthorized, Type: typeAuth, Code: "invalid_api_key", Message: "an API key is required: Authorization: Bearer …"}).Write(w)
		return
	}
	var p purge
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		invalid("invalid_json", "the body must be a JSON object with one of key, tag, model and all", "").Write(w)
		return
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		invalid("invalid_json", "something follows the JSON object", "").Write(w)
		return
	}
	switch {
	case p.Tenant == "":
		p.Tenant = caller.Tenant
	case p.Tenant != caller.Tenant && caller.KeyID != "":
		(&Refusal{Status: http.StatusForbidden, Type: typeForbidden, Code: "not_your_tenant", Message: "only the server's own key may purge another tenant's answers"}).Write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	given, err := s.purge(ctx, caller, p)
	switch {
	case given != 1:
		invalid("invalid_purge", "exactly one of key, tag, model and all must be given", "").Write(w)
	case err != nil && !errors.Is(err, cache.ErrUnavailable):
		s.cfg.Logger.WarnContext(ctx, "a purge failed", "error", err)
		fallthrough
	case err != nil:
		(&Refusal{Status: http.StatusServiceUnavailable, Type: typeServer, Code: "purge_incomplete", Message: "this replica is purged, but others may not be: purge again", Header: http.Header{"Retry-After": {"1"}}}).Write(w)
	default:
		writeJSON(w, struct {
			Purged bool `json:"purged"`
		}{true})
	}
}

// purge runs one, and says how many things were named.
func (s *Service) purge(ctx context.Context, caller Caller, p purge) (given int, err error) {
	var tags []string
	for tag, named := range map[string]bool{tenantTag(p.Tenant): p.All, modelTag(p.Tenant, p.Model): p.Model != "", ownTag(p.Tenant, p.Tag): p.Tag != ""} {
		if named {
			given++
			tags = append(tags, tag)
		}
	}
	if p.Key != "" {
		given++
	}
	if given != 1 {
		return given, nil
	}
	if p.Key != "" && !s.owns(ctx, caller, p) {
		if s.cfg.Cache.State() == cache.StateUnavailable {
			return given, cache.ErrUnavailable // it may be theirs
		}
		return given, nil // what is not theirs is not there for them
	}
	s.disband(tenantTag(p.Tenant))
	marked := errors.Join(s.elector.purge(ctx, tenantTag(p.Tenant)), s.announcePurge(ctx, tenantTag(p.Tenant)))
	if p.Key != "" {
		err = s.cfg.Cache.Delete(ctx, "llm:"+p.Key)
	} else {
		err = s.cfg.Cache.Purge(ctx, tags...)
	}
	return given, errors.Join(err, marked)
}

// disband lets nobody else join the tenant's flights on this replica, and their answers be kept: they began before what
// was known then was no longer wanted. The tag is the tenant's; "" is every tenant's.
func (s *Service) disband(tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.byID {
		if tag == "" || tenantTag(f.req.caller.Tenant) == tag {
			f.purged.Store(true)
			if s.flights[f.req.key] == f {
				delete(s.flights, f.req.key)
			}
		}
	}
}

// Bus carries small notices to every replica, this one too, stored nowhere. Whoever hears one calls Service.Announced.
type Bus interface {
	Announce(ctx context.Context, topic string, data []byte) error
}

// Topic is what purges are announced under.
const Topic = "llm-purge"

// announcePurge tells the other replicas whose flights are to be disbanded.
func (s *Service) announcePurge(ctx context.Context, tag string) error {
	if s.cfg.Bus == nil {
		return nil
	}
	if err := s.cfg.Bus.Announce(ctx, Topic, []byte(s.elector.owner+" "+tag)); err != nil {
		return fmt.Errorf("announce a purge: %w", err)
	}
	return nil
}

// Announced takes what came over the Bus; nil means that something may have been missed. It does not block.
func (s *Service) Announced(data []byte) {
	if owner, tag, _ := strings.Cut(string(data), " "); owner != s.elector.owner {
		s.disband(tag)
	}
}

// owns says whether the answer under a key is the caller's.
func (s *Service) owns(ctx context.Context, caller Caller, p purge) bool {
	if caller.KeyID == "" {
		return true
	}
	entry, ok := s.cfg.Cache.Get(ctx, "llm:"+p.Key)
	if !ok {
		return false
	}
	rec, err := decodeRecording(entry.Value)
	base := "tenant:" + caller.Tenant
	if caller.Shared {
		base = "shared"
	}
	return err == nil && rec.Base == hashed(base)
}

// Model is one entry of GET /v1/models, in OpenAI's form.
type model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

const modelsWithin = 10 * time.Second

// ServeModels answers GET /v1/models: what the upstreams list of what they are asked for here, and the aliases, as
// far as the caller may use them. An upstream that does not answer is left out.
func (s *Service) ServeModels(w http.ResponseWriter, r *http.Request) {
	caller, known := CallerFrom(r.Context())
	if !known {
		(&Refusal{Status: http.StatusUnauthorized, Type: typeAuth, Code: "invalid_api_key", Message: "an API key is required: Authorization: Bearer …"}).Write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), modelsWithin)
	defer cancel()
	list := s.client.upstreams.List
	found := make([][]model, len(list))
	errs := make([]error, len(list))
	var all sync.WaitGroup
	for i := range list {
		all.Go(func() { found[i], errs[i] = s.models(ctx, r, &list[i]) })
	}
	all.Wait()
	seen, out := map[string]bool{}, []model{}
	add := func(m model) {
		if !seen[m.ID] && caller.allows(m.ID) {
			seen[m.ID] = true
			out = append(out, m)
		}
	}
	for alias := range s.client.upstreams.Aliases {
		add(model{ID: alias, Object: "model", OwnedBy: "forgewire"})
	}
	for i, models := range found {
		for _, m := range models {
			// Only what a request would be sent there for.
			if routes := s.client.upstreams.routes(m.ID); len(routes) > 0 && (routes[0].upstream == &list[i] || seen[m.ID]) {
				add(m)
			}
		}
	}
	if len(out) == 0 && errors.Join(errs...) != nil {
		fl := failureOf(errors.Join(errs...))
		(&Refusal{Status: fl.Status, Type: typeUpstream, Code: fl.Code, Message: fl.Message}).Write(w)
		return
	}
	slices.SortFunc(out, func(a, b model) int { return strings.Compare(a.ID, b.ID) })
	writeJSON(w, struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", out})
}

func (s *Service) models(ctx context.Context, r *http.Request, u *Upstream) ([]model, error) {
	// Once, and past the breakers: that the list is broken says nothing of the models.
	ans, err := s.client.send(ctx, question{method: http.MethodGet, path: "models",
		header: http.Header{"Accept": {"application/json"}, "User-Agent": {"forgewire"}}, ownKey: ownKey(r)}, route{upstream: u})
	if err != nil {
		return nil, err
	}
	defer ans.Body.Close()
	var list struct {
		Data []model `json:"data"`
	}
	if ans.StatusCode != http.StatusOK {
		return nil, errNotAnswer
	}
	if err := json.NewDecoder(io.LimitReader(ans.Body, maxEventBytes)).Decode(&list); err != nil {
		return nil, errNotAnswer
	}
	return list.Data, nil
}
