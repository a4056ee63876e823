package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge-go"

	"forgewire/infra/fakellm"
)

// shipped reads a file of infra/deploy, with each old in place of its new.
func shipped(t testing.TB, name string, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile("../infra/deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(b), replace[i]) {
			t.Fatalf("%s has no %q", name, replace[i])
		}
	}
	return strings.NewReplacer(replace...).Replace(string(b))
}

// balancers are the real ones, with the configuration that we ship, and in it what a test has replaced.
var balancers = map[string]func(t *testing.T, c *cluster, replace ...string) *program{
	"caddy": func(t *testing.T, c *cluster, replace ...string) *program {
		path := install(t, "caddy")
		p := &program{t: t, name: "caddy", port: freePort(t), log: &logBuffer{}}
		// Debian's is too old for full duplex.
		config := place(t, "Caddyfile", shipped(t, "Caddyfile", append(replace, "{\n\tservers {", "{\n\tadmin off\n\tservers {", "enable_full_duplex", "")...))
		p.env = []string{fmt.Sprintf("FORGEWIRE_SITE=http://:%d", p.port), "HOME=" + strings.TrimSuffix(config, "/Caddyfile"),
			fmt.Sprintf("FORGEWIRE_UPSTREAMS=%s %s", c.replicas[0].addr, c.replicas[1].addr)}
		p.args = []string{path, "run", "--config", config, "--adapter", "caddyfile"}
		return p
	},
	"haproxy": func(t *testing.T, c *cluster, replace ...string) *program {
		path := install(t, "haproxy")
		p := &program{t: t, name: "haproxy", port: freePort(t), log: &logBuffer{}}
		config := place(t, "haproxy.cfg", shipped(t, "haproxy.cfg", append(replace, "bind :8080", "bind "+p.addr(),
			"forgewire-a:8080", c.replicas[0].addr, "forgewire-b:8080", c.replicas[1].addr, "maxconn 40000", "maxconn 1000")...))
		p.args = []string{path, "-db", "-f", config}
		return p
	},
	"nginx": func(t *testing.T, c *cluster, replace ...string) *program {
		path := install(t, "nginx")
		p := &program{t: t, name: "nginx", port: freePort(t), log: &logBuffer{}}
		config := place(t, "nginx.conf", shipped(t, "nginx.conf", append(replace, "listen 8080", "listen "+p.addr(),
			"forgewire-a:8080", c.replicas[0].addr, "forgewire-b:8080", c.replicas[1].addr)...))
		dir := strings.TrimSuffix(config, "nginx.conf")
		temp := ""
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			temp += kind + "_temp_path " + dir + kind + "; "
		}
		text, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		ours := strings.Replace(string(text), "http {", "http {\n\taccess_log off; "+temp, 1)
		if err = os.WriteFile(config, []byte(ours), 0o644); err != nil {
			t.Fatal(err)
		}
		p.args = []string{path, "-p", dir, "-e", "stderr", "-c", config, "-g", "daemon off; error_log stderr; pid " + dir + "nginx.pid;"}
		return p
	},
}

// Behind a real load balancer, with the configuration that we ship: WebSockets, and streams that nothing holds back,
// on from one replica to the other when the first stops.
func TestBehindBalancers(t *testing.T) {
	for name, prepare := range balancers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, options{env: []string{"FORGEWIRE_CLIENT_IP_HEADER=X-Forwarded-For", "FORGEWIRE_ADMIN_PASSWORD=a password of tests"}})
			p := prepare(t, c)
			p.start()
			behind := &replica{t: t, name: "the replicas behind " + name, addr: p.addr()}
			until(t, 20*time.Second, name+" finding the replicas", behind.ready)

			book := newLedger()
			front := &cluster{t: t, url: c.url, replicas: []*replica{behind}}
			sub := front.subscriber(0, centrifuge.Config{}, "room:1")
			sub.begin()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			sse := lines(ctx, t, http.MethodGet, "http://"+p.addr()+"/v1/channels/room:1/events", "")
			expect(t, sse, "id: ")
			stream := postStream(ctx, t, "http://"+p.addr()+"/connection/http_stream")
			for range 5 { // each arrives before the next is published: nothing is held back
				id, _ := book.mustPost(behind, "room:1")
				expect(t, sse, `"`+id+`"`)
				expect(t, stream, `"`+id+`"`)
				sub.waitFor("room:1", id, 10*time.Second)
			}
			if res, err := http.Get("http://" + p.addr() + "/metrics"); err != nil || res.StatusCode != http.StatusNotFound {
				t.Errorf("/metrics for everybody: %v, %v", res, err)
			} else {
				res.Body.Close()
			}
			knowsWho(t, c, p.addr())
			cancel()
			c.replicas[0].term()
			id, _, err := book.post(c.replicas[1], "room:1")
			if err != nil {
				t.Fatal(err)
			}
			sub.waitFor("room:1", id, 30*time.Second)
			c.replicas = c.replicas[1:]
			c.settle(book, sub)
			nobodyWasTold(t, []*subscriber{sub})
		})
	}
}

// A request to a model may be large, and its answer may take longer than anything else: here all else has a second and
// a megabyte.
func TestBalancersWaitForModels(t *testing.T) {
	short := map[string][]string{"nginx": {" 90s", " 1s", " 16m", " 1m"}, "haproxy": {" 90s", " 1s"}}
	for name, prepare := range balancers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newLLM(t, nil, map[string]fakellm.Behaviour{"slow": {FirstToken: 3 * time.Second}})
			p := prepare(t, c.cluster, short[name]...)
			p.start()
			behind := &replica{t: t, name: "the replicas behind " + name, addr: p.addr()}
			until(t, 20*time.Second, name+" finding the replicas", behind.ready)
			c.replicas = []*replica{behind}
			a := c.mustAsk(0, "/chat/completions", asking("slow", strings.Repeat("x", 2<<20), nil))
			if a.took < 3*time.Second {
				t.Errorf("the model took only %v", a.took)
			}
		})
	}
}

// knowsWho demands that the replicas know who is behind the proxy, whatever he says of himself: they write down who gave
// a wrong password.
func knowsWho(t testing.TB, c *cluster, proxy string) {
	t.Helper()
	var from net.Dialer
	from.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	client := &http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
	req, err := http.NewRequest(http.MethodPost, "http://"+proxy+"/admin/login", strings.NewReader("password=wrong"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Add("X-Forwarded-For", "6.6.6.6")
	req.Header.Add("X-Forwarded-For", "7.7.7.7, 8.8.8.8")
	req.Header.Set("X-Real-Ip", "6.6.6.6")
	req.Header.Set("Forwarded", "for=6.6.6.6")
	res, err := client.Do(req)
	if err != nil {
		t.Logf("this machine has no second address: %v", err)
		return
	}
	res.Body.Close()
	until(t, 10*time.Second, "the address of who gave a wrong password", func() string {
		said := ""
		for _, r := range c.replicas {
			for line := range strings.Lines(r.log.String()) {
				if strings.Contains(line, "a wrong password") {
					said += line
				}
			}
		}
		if !strings.Contains(said, "address=127.0.0.2") {
			return fmt.Sprintf("%s: %s", res.Status, said)
		}
		return ""
	})
}

// postStream opens a stream by POST. A proxy written in Go that is not full duplex may cut it as soon as it begins (see
// the Caddyfile): then it comes back, as clients do.
func postStream(ctx context.Context, t testing.TB, address string) <-chan string {
	t.Helper()
	for range 20 {
		stream := lines(ctx, t, http.MethodPost, address, `{"id":1,"connect":{}}`+"\n"+`{"id":2,"subscribe":{"channel":"room:1"}}`)
		quiet := time.After(500 * time.Millisecond)
		for open := true; open; {
			select {
			case _, open = <-stream:
			case <-quiet:
				return stream
			}
		}
	}
	t.Fatal("no stream stays open")
	return nil
}

// lines sends a request whose response does not end, and returns its lines.
func lines(ctx context.Context, t testing.TB, method, address, body string) <-chan string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s", method, address, res.Status)
	}
	out := make(chan string, 1000)
	go func() {
		defer close(out)
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			select {
			case out <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// expect waits for a line with a text.
func expect(t testing.TB, lines <-chan string, text string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the stream ended before %s", text)
			}
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			t.Fatalf("%s did not come", text)
		}
	}
}
