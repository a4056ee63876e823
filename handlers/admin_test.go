package handlers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"forgewire/cache"
	"forgewire/db"
	"forgewire/db/dbtest"
	"forgewire/handlers"
	"forgewire/handlers/access"
	"forgewire/handlers/admin"
	"forgewire/handlers/resources"
	"forgewire/realtime"
)

const adminPassword = "the dashboard's password"

// newDashboard is the two replicas of newCluster with a dashboard on each, for browsers that keep cookies.
func newDashboard(t *testing.T) *cluster {
	t.Helper()
	key := must(admin.Key(adminPassword, apiKey))
	tokens := realtime.TokenConfig{Secret: "secret of the tests", OperatorKey: key}
	return newClusterOf(t, tokens, func(cfg *handlers.Config) {
		a := must(admin.New(admin.Config{Password: adminPassword, Key: key, Tokens: tokens, Node: cfg.Node, Gate: cfg.Gate, Resources: cfg.Resources,
			Pool: cfg.Pools["requests"], Logger: cfg.Logger, Version: "test"}))
		cfg.Admin = a
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	})
}

// visitor is a browser: it keeps cookies, and follows no redirect by itself.
type visitor struct {
	t      *testing.T
	server string
	http   http.Client
}

func (c *cluster) visitor(t *testing.T, replica int) *visitor {
	return &visitor{t: t, server: c.servers[replica].URL, http: http.Client{Jar: must(cookiejar.New(nil)),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// answer is a response that was read.
type answer struct {
	StatusCode int
	Header     http.Header
	Cookies    []*http.Cookie
}

func (v *visitor) do(method, path, body string, header ...string) (a answer, text string) {
	v.t.Helper()
	req := must(http.NewRequestWithContext(v.t.Context(), method, v.server+path, strings.NewReader(body)))
	if strings.HasPrefix(body, "password=") {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := v.http.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	return answer{resp.StatusCode, resp.Header, resp.Cookies()}, string(must(io.ReadAll(resp.Body)))
}

func (v *visitor) login(password string, header ...string) answer {
	v.t.Helper()
	a, _ := v.do(http.MethodPost, "/admin/login", "password="+url.QueryEscape(password), header...)
	return a
}

func (v *visitor) wants(status int, method, path, body string) string {
	v.t.Helper()
	resp, text := v.do(method, path, body)
	if resp.StatusCode != status {
		v.t.Errorf("%s %s: %d %s, want %d", method, path, resp.StatusCode, text, status)
	}
	return text
}

var adminAPI = []struct{ method, path string }{{"GET", "session"}, {"GET", "channels"}, {"GET", "channel?channel=a"}, {"POST", "publish"},
	{"GET", "keys"}, {"POST", "keys"}, {"DELETE", "keys/aaaaaaaaaaaaaaaa"}, {"GET", "tenants/default/runs"}, {"GET", "tenants/default/usage"},
	{"GET", "tenants/default/prompts"}, {"GET", "tenants/default/evaluations"}}

// Without a password there is nothing.
func TestAdminIsOff(t *testing.T) {
	t.Parallel()
	v := newCluster(t, nil).visitor(t, 0)
	for _, path := range []string{"/admin", "/admin/", "/admin/assets/app.js", "/admin/api/session", "/admin/login"} {
		v.wants(http.StatusNotFound, http.MethodGet, path, "")
	}
	v.wants(http.StatusNotFound, http.MethodPost, "/admin/login", "password="+adminPassword)
}

// A stranger sees the login and the page's files, and nothing else.
func TestAdminStranger(t *testing.T) {
	t.Parallel()
	c := newDashboard(t)
	v := c.visitor(t, 0)
	for _, a := range adminAPI {
		v.wants(http.StatusUnauthorized, a.method, "/admin/api/"+a.path, "{}")
		if resp, _ := v.do(a.method, "/admin/api/"+a.path, "{}", "X-API-Key", apiKey, "Authorization", "Bearer "+apiKey); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s with the API key: %d", a.path, resp.StatusCode)
		}
	}
	resp, text := v.do(http.MethodGet, "/admin", "")
	if resp.StatusCode != http.StatusOK || !strings.Contains(text, `type="password"`) || strings.Contains(text, "app.js") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp = v.login("wrong password"); resp.StatusCode != http.StatusUnauthorized || len(resp.Cookies) != 0 {
		t.Errorf("a wrong password: %d", resp.StatusCode)
	}
	s := c.connect(t, 0, "operator-1")
	for _, command := range []string{`"subscribe":{"channel":"forgewire:figures"}`, `"history":{"channel":"forgewire:figures"}`,
		`"presence":{"channel":"forgewire:figures"}`, `"publish":{"channel":"forgewire:figures","data":{}}`} {
		if reply := string(s.do(t, `{"id":9,`+command+`}`)); !strings.Contains(reply, `"error"`) {
			t.Errorf("%s: %s", command, reply)
		}
	}
	if _, reply := c.call(t, 0, "publish", `{"channel":"forgewire:figures","data":{}}`); !strings.Contains(reply, `"code":103`) {
		t.Error(reply)
	}
	if status, reply := c.request(t, 0, http.MethodGet, "/v1/channels/forgewire:figures/events", "", ""); status != http.StatusForbidden {
		t.Errorf("events: %d %s", status, reply)
	}
}

// Every answer says what the page may do; every file that the page names is there and obeys.
func TestAdminHeaders(t *testing.T) {
	t.Parallel()
	v := newDashboard(t).visitor(t, 0)
	_, login := v.do(http.MethodGet, "/admin", "")
	v.login(adminPassword)
	resp, page := v.do(http.MethodGet, "/admin", "")
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'self';") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("policy %q", policy)
	}
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script>|<script [^>]*>[^<]|https?://`)
	files := map[string]bool{}
	for _, text := range []string{login, page} {
		if found := inline.FindString(text); found != "" {
			t.Errorf("the page has %q", found)
		}
		for _, m := range regexp.MustCompile(`(?:src|href)="(/[^"]+)"`).FindAllStringSubmatch(text, -1) {
			files[m[1]] = true
		}
	}
	for _, m := range regexp.MustCompile(`from '\./([a-z]+\.js)'`).FindAllStringSubmatch(v.wants(http.StatusOK, http.MethodGet, "/admin/assets/app.js", ""), -1) {
		files["/admin/assets/"+m[1]] = true
	}
	if len(files) < 12 {
		t.Errorf("only %v", files)
	}
	for f := range files {
		if resp, _ = v.do(http.MethodGet, f, ""); resp.StatusCode != http.StatusOK || resp.Header.Get("X-Content-Type-Options") != "nosniff" ||
			!regexp.MustCompile(`^(text/(javascript|css)|image/svg)`).MatchString(resp.Header.Get("Content-Type")) {
			t.Errorf("%s: %d %v", f, resp.StatusCode, resp.Header)
		}
	}
	if resp, _ = v.do(http.MethodGet, "/admin/api/session", ""); resp.Header.Get("Cache-Control") != "no-store" {
		t.Error("a token may be stored")
	}
}

// The cookie is as it must be, is good on every replica, and ends everywhere with the logout.
func TestAdminSession(t *testing.T) {
	t.Parallel()
	c := newDashboard(t)
	v := c.visitor(t, 0)
	resp := v.login(adminPassword)
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/admin" || len(resp.Cookies) != 1 {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	cookie := resp.Cookies[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/admin" || cookie.Secure || cookie.MaxAge <= 0 {
		t.Errorf("%+v", cookie)
	}
	for _, header := range [][]string{{"X-Forwarded-Proto", "https"}} {
		if s := c.visitor(t, 1).login(adminPassword, header...).Cookies[0]; !s.Secure || !strings.HasPrefix(s.Name, "__Secure-") {
			t.Errorf("over https: %+v", s)
		}
	}
	other := c.visitor(t, 1)
	as := func(value string) int {
		t.Helper()
		resp, _ := other.do(http.MethodGet, "/admin/api/session", "", "Cookie", cookie.Name+"="+value)
		return resp.StatusCode
	}
	if s := as(cookie.Value); s != http.StatusOK {
		t.Errorf("on the other replica: %d", s)
	}
	last := map[bool]string{true: "B", false: "A"}[cookie.Value[10] == 'A']
	for name, forged := range map[string]string{"another id": cookie.Value[:10] + last + cookie.Value[11:], "cut": cookie.Value[:40], "empty": "", "text": "operator"} {
		if s := as(forged); s != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, s)
		}
	}
	if resp, _ = v.do(http.MethodPost, "/admin/logout", "", "Sec-Fetch-Site", "cross-site"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another site logs out: %d", resp.StatusCode)
	}
	if resp, _ = v.do(http.MethodPost, "/admin/api/publish", `{"channel":"a","data":1}`, "Origin", "https://evil.example"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another site publishes: %d", resp.StatusCode)
	}
	if resp, _ = v.do(http.MethodPost, "/admin/logout", ""); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("logout: %d", resp.StatusCode)
	}
	eventually(t, "the session has ended on the other replica", func() bool { return as(cookie.Value) == http.StatusUnauthorized })
	eventually(t, "and on this one", func() bool {
		resp, _ := v.do(http.MethodGet, "/admin/api/session", "", "Cookie", cookie.Name+"="+cookie.Value)
		return resp.StatusCode == http.StatusUnauthorized
	})
}

// Passwords cannot be guessed: after a few attempts even the right one has to wait.
func TestAdminAttempts(t *testing.T) {
	t.Parallel()
	v := newDashboard(t).visitor(t, 0)
	for range 5 {
		if s := v.login("wrong").StatusCode; s != http.StatusUnauthorized {
			t.Fatalf("%d", s)
		}
	}
	if resp := v.login(adminPassword); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || len(resp.Cookies) != 0 {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

// Who is logged in sees the figures of all replicas over the WebSocket, and publishes, and makes and revokes keys.
func TestAdminWorks(t *testing.T) {
	t.Parallel()
	c := newDashboard(t)
	v := c.visitor(t, 0)
	v.login(adminPassword)
	var session struct{ Token, Channel, Version string }
	if err := json.Unmarshal([]byte(v.wants(200, "GET", "/admin/api/session", "")), &session); err != nil || session.Version != "test" {
		t.Fatalf("%+v, %v", session, err)
	}
	c.connect(t, 0, "alice", "room:1")
	s := c.connectWith(t, 1, session.Token)
	if reply := string(s.do(t, fmt.Sprintf(`{"id":2,"subscribe":{"channel":%q}}`, session.Channel))); strings.Contains(reply, "error") {
		t.Fatal(reply)
	}
	eventually(t, "the figures are whole", func() bool { // every two seconds; a replica that is slow is in the next ones
		figures := s.push(t)
		for _, want := range []string{`"name":"replica 0"`, `"name":"replica 1"`, `"latency":{`, `"pools":{"requests"`, `"lag_seconds"`} {
			if !strings.Contains(figures, want) {
				t.Logf("the figures lack %s", want)
				return false
			}
		}
		return true
	})
	eventually(t, "the channel is listed, and ours is not", func() bool {
		text := v.wants(200, "GET", "/admin/api/channels?pattern=room", "")
		all := v.wants(200, "GET", "/admin/api/channels", "")
		return strings.Contains(text, `{"channel":"room:1","clients":1}`) && strings.Contains(all, "room:1") && !strings.Contains(all, "forgewire")
	})
	if text := v.wants(200, "POST", "/admin/api/publish", `{"channel":"room:1","data":{"a":1}}`); !strings.Contains(text, `"offset":`) {
		t.Error(text)
	}
	eventually(t, "who is there, and the past", func() bool {
		text := v.wants(200, "GET", "/admin/api/channel?channel=room:1", "")
		return strings.Contains(text, `"user":"alice"`) && strings.Contains(text, `"data":{"a":1}`)
	})
	if text := v.wants(200, "GET", "/admin/api/channel?channel=cursor:1", ""); !strings.Contains(text, `"presence":null`) || !strings.Contains(text, `"past":null`) {
		t.Error(text)
	}
	for _, bad := range []string{``, `{}`, `{"channel":"a"}`, `{"channel":"","data":1}`, `{"channel":"a","data":1,"x":1}`, `{"channel":"forgewire:figures","data":1}`} {
		v.wants(400, "POST", "/admin/api/publish", bad)
	}
	adminKeys(t, c, v)
}

func adminKeys(t *testing.T, c *cluster, v *visitor) {
	t.Helper()
	for _, bad := range []string{``, `{}`, `{"tenant":""}`, `{"tenant":"a","requests_per_minute":0}`, `{"tenant":"a","budget":-1}`} {
		v.wants(400, "POST", "/admin/api/keys", bad)
	}
	var made struct{ ID, Key string }
	if err := json.Unmarshal([]byte(v.wants(201, "POST", "/admin/api/keys", `{"tenant":"acme","name":"n","models":["small-*"],"requests_per_minute":5,"budget":1.5}`)), &made); err != nil {
		t.Fatal(err)
	}
	list := v.wants(200, "GET", "/admin/api/keys", "")
	if !strings.Contains(list, `"budget_micros":1500000`) || strings.Contains(list, made.Key) || strings.Contains(list, "hash") {
		t.Error(list)
	}
	opens := func() int {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, c.servers[0].URL+"/v1/usage", nil))
		req.Header.Set("Authorization", "Bearer "+made.Key)
		resp := must(http.DefaultClient.Do(req)) //nolint:bodyclose // it is closed below
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if s := opens(); s != http.StatusOK {
		t.Errorf("the key: %d", s)
	}
	v.wants(200, "DELETE", "/admin/api/keys/"+made.ID, "")
	eventually(t, "the key opens nothing", func() bool { return opens() == http.StatusUnauthorized })
	v.wants(404, "DELETE", "/admin/api/keys/"+made.ID, "")
	v.wants(404, "DELETE", "/admin/api/keys/nonsense", "")
	v.wants(200, "GET", "/admin/api/tenants/acme/runs?limit=5", "")
	for _, what := range []string{"usage", "prompts?limit=5", "evaluations"} {
		v.wants(200, "GET", "/admin/api/tenants/acme/"+what, "")
	}
}

// A tenant's name may be anything, as an address.
func TestAdminTenantsOfAnyName(t *testing.T) {
	t.Parallel()
	c := newDashboard(t)
	v := c.visitor(t, 0)
	v.login(adminPassword)
	for path, tenant := range map[string]string{"ops%40acme.com%2Fx": "ops@acme.com/x", "a%3Ab%2Bc%26d": "a:b+c&d", "50%25": "50%"} {
		var made struct{ Key string }
		if err := json.Unmarshal([]byte(v.wants(201, "POST", "/admin/api/keys", fmt.Sprintf(`{"tenant":%q}`, tenant))), &made); err != nil {
			t.Fatal(err)
		}
		if a, text := v.do("POST", "/v1/prompts", `{"name":"theirs","template":"x"}`, "Authorization", "Bearer "+made.Key, "Content-Type", "application/json"); a.StatusCode != http.StatusCreated {
			t.Fatalf("%d %s", a.StatusCode, text)
		}
		if text := v.wants(200, "GET", "/admin/api/tenants/"+path+"/prompts", ""); !strings.Contains(text, `"theirs"`) {
			t.Errorf("of %s: %s", tenant, text)
		}
	}
}

// Nobody watches: nothing is asked of the replicas.
func TestAdminIsIdle(t *testing.T) {
	t.Parallel()
	pool := must(db.NewPool(context.Background(), db.PoolConfig{URL: dbtest.New(t)}))
	t.Cleanup(pool.Close)
	node := must(realtime.New(realtime.Config{Pool: pool, ListenURL: "x", Logger: slog.New(slog.DiscardHandler), Namespaces: realtime.NewNamespaces(),
		MaxConnections: 1, MaxPublicationBytes: 1, RetentionAge: time.Hour, RetentionBytes: 1, ShutdownTimeout: time.Second}))
	gate := must(access.New(access.Config{Pool: pool, Logger: slog.New(slog.DiscardHandler), Retention: time.Hour, Flush: time.Second}))
	values := must(cache.New(cache.Config{Bus: node, Log: slog.New(slog.DiscardHandler)}))
	serves := must(resources.New(resources.Config{Pool: pool, Cache: values, Queue: node.Queue(), Logger: slog.New(slog.DiscardHandler)}))
	a := must(admin.New(admin.Config{Password: adminPassword, Key: []byte("k"), Node: node, Gate: gate, Resources: serves, Pool: pool,
		Logger: slog.New(slog.DiscardHandler)}))
	a.OnFigures(func(context.Context) (any, error) { t.Error("figures for nobody"); return nil, nil })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
}
