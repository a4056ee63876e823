package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// prompt is the part of a prompt that the run looks at.
type prompt struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Version  int32  `json:"version"`
	Template string `json:"template"`
}

// write makes a prompt, or a version of one, each until it is acknowledged, and reads one back: the other tenant's is
// not there for it.
func (l *chaosLoad) write(ctx context.Context, r *rand.Rand) {
	tenant := pick(r, chaosTenants)
	name := fmt.Sprintf("%s %d %d", tenant, l.round, r.Uint64())
	if id, known := l.anyOf(tenant, r); known && r.IntN(3) > 0 {
		if r.IntN(2) == 0 {
			l.persist(ctx, r, tenant, "/v1/prompts/"+id+"/versions", object{"template": name}, name)
		} else {
			l.readBack(r, tenant, id)
		}
		return
	}
	l.persist(ctx, r, tenant, "/v1/prompts", object{"name": name, "template": name}, name)
}

// anyOf chooses a prompt of a tenant.
func (l *chaosLoad) anyOf(tenant string, r *rand.Rand) (id string, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	skip := r.IntN(len(l.prompts) + 1)
	for i, p := range l.prompts {
		if p.tenant == tenant {
			if id = i; skip <= 0 {
				break
			}
		}
		skip--
	}
	return id, id != ""
}

// persist posts with an idempotency key to one replica after the other, until one says that it is done.
func (l *chaosLoad) persist(ctx context.Context, r *rand.Rand, tenant, path string, body object, key string) {
	b, _ := json.Marshal(body) // plain values
	at := r.IntN(chaosReplicas)
	for try := 0; ctx.Err() == nil && try < 20; try++ {
		one, cancel := context.WithTimeout(context.Background(), patience)
		u := "http://" + l.w.front.replicas[(at+try)%chaosReplicas].addr + path
		reply, status, err := l.request(one, tenant, http.MethodPost, u, b, "Idempotency-Key", key)
		cancel()
		var p prompt
		if err == nil && status == http.StatusCreated && json.Unmarshal(reply, &p) == nil {
			l.wrote(tenant, p)
			l.w.tally.written.Add(1)
			return
		}
		l.w.tally.writeFailed.Add(1)
		if err == nil && status < 500 && status != http.StatusConflict { // 409: the first try is under way
			if !l.w.mayHaveLost() { // what it is a version of may be lost
				l.w.wrongly("POST %s of %s: %d %.300s", path, tenant, status, reply)
			}
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// wrote remembers what was acknowledged.
func (l *chaosLoad) wrote(tenant string, p prompt) {
	l.w.book.mu.Lock()
	risky := l.w.book.risky
	l.w.book.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.prompts[p.ID]
	if known == nil {
		known = &chaosPrompt{tenant: tenant, templates: map[int32]string{}}
		l.prompts[p.ID] = known
	}
	known.risky = known.risky || risky
	if before, twice := known.templates[p.Version]; twice && before != p.Template && !known.risky {
		l.w.wrongly("version %d of %s is %q and was acknowledged as %q", p.Version, p.ID, p.Template, before)
	}
	known.templates[p.Version] = p.Template
}

// readBack reads a prompt as its tenant and as the other one, from the cache or not.
func (l *chaosLoad) readBack(r *rand.Rand, tenant, id string) {
	l.mu.Lock()
	known := *l.prompts[id]
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u := "http://" + l.w.front.replicas[r.IntN(chaosReplicas)].addr + "/v1/prompts/" + id
	b, status, err := l.request(ctx, tenant, http.MethodGet, u, nil)
	var p prompt
	switch {
	case err != nil || status >= 500:
		return
	case status != http.StatusOK || json.Unmarshal(b, &p) != nil:
		if !known.risky {
			l.w.wrongly("GET %s of %s: %d %.300s", id, tenant, status, b)
		}
		return
	case known.templates[p.Version] != "" && known.templates[p.Version] != p.Template && !known.risky:
		l.w.wrongly("%s has %q as version %d, acknowledged was %q", id, p.Template, p.Version, known.templates[p.Version])
	}
	l.w.tally.read.Add(1)
	other := chaosTenants[0]
	if other == tenant {
		other = chaosTenants[1]
	}
	if b, status, err = l.request(ctx, other, http.MethodGet, u, nil); err == nil && status < 500 && status != http.StatusNotFound {
		l.w.wrongly("%s reads %s's prompt: %d %.300s", other, tenant, status, b)
	}
}

// checkWrites demands that everything that was acknowledged is there on every replica, and nothing twice.
func (l *chaosLoad) checkWrites() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.w.replicas {
		for id, known := range l.prompts {
			if known.risky {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			b, status, err := l.request(ctx, known.tenant, http.MethodGet, "http://"+r.addr+"/v1/prompts/"+id+"/versions?limit=100", nil)
			cancel()
			var list struct{ Data []prompt }
			if err != nil || status != http.StatusOK || json.Unmarshal(b, &list) != nil {
				l.w.wrongly("the versions of %s on %s: %v, %d %.300s", id, r.name, err, status, b)
				continue
			}
			have, times := map[int32]string{}, map[string]int{}
			for _, v := range list.Data {
				have[v.Version] = v.Template
				times[v.Template]++
			}
			for version, template := range known.templates {
				if have[version] != template {
					l.w.wrongly("%s: version %d of %s is %q, acknowledged was %q", r.name, version, id, have[version], template)
				}
			}
			for template, n := range times {
				if n > 1 {
					l.w.wrongly("%s: %q is %d versions of %s", r.name, template, n, id)
				}
			}
			l.w.tally.versions.Add(int64(len(list.Data)))
		}
	}
	clear(l.prompts)
}
