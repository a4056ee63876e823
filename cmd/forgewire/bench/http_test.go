package bench

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

func TestHTTP(t *testing.T) {
	t.Parallel()
	r, err := HTTP(testContext(t), HTTPConfig{
		Duration: 100 * time.Millisecond, Rounds: 1, Users: 10, Requests: 10, Rows: 1500, Setup: Setup{Binary: binary, Progress: testLog{t}},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, r, httpSuiteName, "as written", "open loop")
	if n := len(r.table(httpBeside).Rows); n != 5 {
		t.Errorf("%d cases", n)
	}
	for _, c := range r.table(httpBeside).Rows {
		ramps := r.table(c.Name + ", " + httpRamp)
		for _, arm := range []string{forgewire, bareHandler} {
			if ramps.row(arm+", step 1") == nil { // not the rate: on a busy machine no answer may fit into so short a time
				t.Errorf("%s, %s: no ramp", c.Name, arm)
			}
		}
		for _, row := range ramps.Rows {
			for kind, n := range row.Tally.Errors {
				if kind != neverSent {
					t.Errorf("%s, %s: %d %s", c.Name, row.Name, n, kind)
				}
			}
		}
	}
	checkPrints(t, r, "assertions met", "cached read", "export")
	if r.table(httpSketch) != nil {
		t.Error("a table of the sketch, which was not asked for")
	}
}

// A server that stands still must not look fast: whoever waits counts, sent or not.
func TestOpenStepCountsWaiting(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	const duration = 200 * time.Millisecond
	defer time.AfterFunc(2*duration, func() { close(release) }).Stop()
	sys := &httpSystem{}
	step, err := openStep(testContext(t), httpSide{base: urlOf(t, s.URL), want: http.StatusOK, sent: &sys.sent,
		request: func(buf []byte, _ int) []byte { return append(buf, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"...) }}, 1000, duration)
	if err != nil {
		t.Fatal(err)
	}
	if d := step.times.times(""); step.achieved != 0 || step.offered != 1000 || d.Max < 300 || d.P50 < 50 || d.Count != 200 {
		t.Errorf("%+v, %+v", step, d)
	}
	if step.tally.Asked != 200 || step.tally.Errors[neverSent] == 0 {
		t.Errorf("%+v", step.tally)
	}
}

func urlOf(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRawConn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		status int
		body   string // "-": an error
	}{
		"length":     {"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabc", 201, "abc"},
		"chunked":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde"},
		"cut chunks": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 200, "-"},
		"cut body":   {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 200, "-"},
		"no length":  {"HTTP/1.1 200 OK\r\n\r\nabc", 200, "-"},
		"not HTTP":   {"SSH-2.0-OpenSSH_9.6\r\n", 0, "-"},
		"no status":  {"HTTP/1.1 OK and more\r\n\r\n", 0, "-"},
	} {
		ln, err := new(net.ListenConfig).Listen(testContext(t), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			buf := make([]byte, 100)
			if _, err = conn.Read(buf); err == nil {
				for i := range c.answer { // an answer may come in any pieces
					_, _ = conn.Write([]byte(c.answer[i : i+1])) // what does not arrive fails the test
				}
			}
		}()
		raw, err := dialRaw(testContext(t), urlOf(t, "http://"+ln.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		status, size, err := raw.do([]byte("GET / HTTP/1.1\r\n\r\n"), &body)
		if c.body == "-" && err == nil || c.body != "-" && (err != nil || status != c.status || body.String() != c.body || size != len(c.body)) {
			t.Errorf("%s: %d %q %d %v", name, status, body.String(), size, err)
		}
		raw.close()
		ln.Close()
		<-served
	}
}
