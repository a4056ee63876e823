package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// proxy is a network between replicas and a server, which can be cut, fall silent, become slow, or lead
// somewhere else.
type proxy struct {
	t testing.TB
	p *toxiproxy.Proxy
}

// newProxy starts a proxy to a port of this machine.
func newProxy(t testing.TB, port int) *proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", port))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return &proxy{t: t, p: p}
}

// url is a database's address through the proxy.
func (p *proxy) url(t testing.TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(p.p.Listen)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = net.JoinHostPort("127.0.0.1", port)
	return u.String()
}

// cut ends every connection, and refuses new ones until mend.
func (p *proxy) cut() { p.p.Stop() }

func (p *proxy) mend() {
	p.t.Helper()
	if err := p.p.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// lead makes the proxy lead to another port. Every connection ends.
func (p *proxy) lead(port int) {
	p.t.Helper()
	err := p.p.Update(&toxiproxy.Proxy{Listen: p.p.Listen, Upstream: "127.0.0.1:" + strconv.Itoa(port), Enabled: true})
	if err != nil {
		p.t.Fatal(err)
	}
}

// swallow lets nothing through in either direction and tells nobody, until heal.
func (p *proxy) swallow() {
	p.add(`{"name":"up","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)
	p.add(`{"name":"down","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
}

// delay delays what the server says, until heal.
func (p *proxy) delay(d time.Duration) {
	p.add(fmt.Sprintf(`{"name":"slow","type":"latency","stream":"downstream","attributes":{"latency":%d}}`, d.Milliseconds()))
}

func (p *proxy) add(toxic string) {
	p.t.Helper()
	if _, err := p.p.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		p.t.Fatal(err)
	}
}

// heal ends what swallow and delay began.
func (p *proxy) heal() { p.p.Toxics.ResetToxics(context.Background()) }
