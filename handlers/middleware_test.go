package handlers

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"forgewire/realtime"
)

// The client's address is what a proxy says in the header that counts, never what the client itself can say.
func TestClientIP(t *testing.T) {
	type headers = [][2]string
	forwarded := func(lists ...string) (h headers) {
		for _, l := range lists {
			h = append(h, [2]string{"X-Forwarded-For", l})
		}
		return h
	}
	const proxy, stranger = "172.16.0.3", "198.51.100.9"
	own := []string{"10.0.0.0/8", "203.0.113.0/24", "fdaa::/16"}
	for _, c := range []struct {
		name, header, peer string
		proxies            []string
		headers            headers
		want               string
	}{
		{"the platform's header", "Fly-Client-IP", proxy, nil, headers{{"Fly-Client-IP", "192.0.2.1"}, {"X-Forwarded-For", "192.0.2.9"}}, "192.0.2.1"},
		{"from Fly.io's network", "Fly-Client-IP", "fdaa:0:1::3", nil, headers{{"Fly-Client-IP", "192.0.2.1"}}, "192.0.2.1"},
		{"from this machine", "Fly-Client-IP", "::1", nil, headers{{"Fly-Client-IP", "192.0.2.1"}}, "192.0.2.1"},
		{"another header", "Fly-Client-IP", proxy, nil, headers{{"X-Forwarded-For", "192.0.2.9"}, {"X-Real-IP", "192.0.2.8"}}, proxy},
		{"garbage", "Fly-Client-IP", proxy, nil, headers{{"Fly-Client-IP", "a, b"}}, proxy},
		{"sent twice", "fly-client-ip", proxy, nil, headers{{"Fly-Client-IP", "192.0.2.66"}, {"Fly-Client-IP", "192.0.2.1"}}, "192.0.2.1"},
		{"past the proxy", "Fly-Client-IP", stranger, nil, headers{{"Fly-Client-IP", "192.0.2.66"}}, stranger},
		{"past the proxy, over IPv6", "Fly-Client-IP", "2001:db8::9", nil, headers{{"Fly-Client-IP", "192.0.2.66"}}, "2001:db8::"},
		{"past the proxy, in another form", "Fly-Client-IP", "::ffff:198.51.100.9", nil, headers{{"Fly-Client-IP", "192.0.2.66"}}, stranger},
		{"past one's own proxies", "Fly-Client-IP", proxy, own, headers{{"Fly-Client-IP", "192.0.2.66"}}, proxy},
		{"one's own proxy", "Fly-Client-IP", "203.0.113.7", own, headers{{"Fly-Client-IP", "192.0.2.1"}}, "192.0.2.1"},

		{"a list that the client began", "x-forwarded-for", proxy, nil, forwarded("192.0.2.66, 192.0.2.1"), "192.0.2.1"},
		{"a list in two parts", "X-Forwarded-For", proxy, nil, forwarded("192.0.2.66", "2001:db8::1"), "2001:db8::"},
		{"a list from Cloud Run", "X-Forwarded-For", "169.254.169.126", nil, forwarded("192.0.2.66,192.0.2.1"), "192.0.2.1"},
		{"a list, past the proxy", "X-Forwarded-For", stranger, nil, forwarded("192.0.2.66"), stranger},
		{"a private client is no proxy", "X-Forwarded-For", proxy, nil, forwarded("192.0.2.66, 10.0.0.5"), "10.0.0.5"},
		{"no list", "X-Forwarded-For", proxy, nil, nil, proxy},
		{"several proxies of one's own", "X-Forwarded-For", "10.0.0.2", own, forwarded("192.0.2.66, 192.0.2.1, 203.0.113.7", "::ffff:10.0.0.1"), "192.0.2.1"},
		{"one's own alone", "X-Forwarded-For", "10.0.0.2", own, forwarded("10.0.0.1"), "10.0.0.2"},
		{"garbage in the list", "X-Forwarded-For", "10.0.0.2", own, forwarded("192.0.2.66, x, 10.0.0.1"), "10.0.0.2"},
		{"a list, past one's own proxies", "X-Forwarded-For", proxy, own, forwarded("192.0.2.66"), proxy},
	} {
		r := httptest.NewRequest(http.MethodGet, "/connection/websocket", nil)
		r.RemoteAddr = net.JoinHostPort(c.peer, "1234")
		for _, h := range c.headers {
			r.Header.Add(h[0], h[1])
		}
		var got string
		clientIP(c.header, c.proxies)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got = realtime.AddressOf(r).Addr().String()
		})).ServeHTTP(httptest.NewRecorder(), r)
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
