package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// replicaHeader tells which replica answered.
	replicaHeader = "Forgewire-Replica"
	// cutPath cuts the WebSockets that were opened with ?pane=ID: POST /dev/cut?pane=ID.
	cutPath = "/dev/cut"
	// idlePerReplica is how many connections to a replica wait for their next request.
	idlePerReplica = 64
)

// backend is a replica as the balancer sees it.
type backend struct {
	name    string // what ?replica= asks for
	address string // host:port
}

// balancer stands before the replicas of `forgewire dev`, as a platform's load balancer does in production.
// Requests go round robin, or where ?replica=NAME says; what a replica refuses to accept, the next one gets.
// newBalancer makes one and Run owns it.
type balancer struct {
	// Fixed.
	backends  []backend
	hosts     *hosts        // that it answers to
	grace     time.Duration // for what is under way when Run is to end
	logger    *slog.Logger
	transport *http.Transport
	proxy     *httputil.ReverseProxy

	turn atomic.Uint64 // round robin

	mu      sync.Mutex
	tunnels map[*tunnel]struct{} // guarded by mu
	closing bool                 // no more tunnels; guarded by mu
	open    sync.WaitGroup       // the tunnels; added to under mu, unless closing
}

// tunnel is a connection that is, or asks to be, upgraded to a WebSocket.
type tunnel struct {
	pane string // from the query, so that the page can have its own cut
	cut  context.CancelFunc
}

func newBalancer(backends []backend, grace time.Duration, logger *slog.Logger) *balancer {
	b := &balancer{
		backends:  backends,
		grace:     grace,
		logger:    logger,
		transport: &http.Transport{MaxIdleConnsPerHost: idlePerReplica, DisableCompression: true},
		tunnels:   make(map[*tunnel]struct{}),
	}
	b.proxy = &httputil.ReverseProxy{
		// The Host header stays the client's, so that a replica's check of the Origin header passes.
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetXForwarded() },
		Transport:    roundTripper(b.roundTrip),
		ErrorHandler: b.failed,
		ErrorLog:     slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	return b
}

// Run serves on ln until ctx ends. Then it accepts nothing more, lets requests end, and leaves WebSockets to
// their replicas, which tell the clients to go; whatever is still there when the grace is over, it cuts.
func (b *balancer) Run(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           b.hosts.guard(b),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(b.logger.Handler(), slog.LevelDebug),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the load balancer: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		b.shutdown(context.WithoutCancel(ctx), server)
		return nil
	})
	return g.Wait()
}

func (b *balancer) shutdown(ctx context.Context, server *http.Server) {
	ctx, cancel := context.WithTimeout(ctx, b.grace)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close() // what did not end in its time is cut
	}
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { b.cut(func(*tunnel) bool { return true }) })
	defer stop()
	b.open.Wait()
	b.transport.CloseIdleConnections()
}

// ServeHTTP answers the balancer's own route and passes on everything else. There is no http.ServeMux,
// because it would redirect unclean paths, which is for the replica to judge.
func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == cutPath:
		b.serveCut(w, r)
	case r.Header.Get("Upgrade") != "":
		b.serveTunnel(w, r)
	default:
		// Else net/http closes the request's body when the response begins, which may cut the stream that it is. It can
		// be had wherever HTTP/1 is; HTTP/2 is so by itself.
		_ = http.NewResponseController(w).EnableFullDuplex()
		b.proxy.ServeHTTP(w, r)
	}
}

// serveTunnel serves a connection that can be cut: the proxy closes both of its ends, without a closing
// handshake, when the request's context ends.
func (b *balancer) serveTunnel(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	t := &tunnel{pane: r.URL.Query().Get("pane"), cut: cancel}
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		http.Error(w, "the load balancer is stopping", http.StatusServiceUnavailable)
		return
	}
	b.tunnels[t] = struct{}{}
	b.open.Add(1)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.tunnels, t)
		b.mu.Unlock()
		b.open.Done()
	}()
	b.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// serveCut has no need of a key: a pane's id is known to its page alone.
func (b *balancer) serveCut(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "use POST "+cutPath+"?pane=ID", http.StatusMethodNotAllowed)
		return
	}
	pane := r.URL.Query().Get("pane")
	if pane == "" {
		http.Error(w, "name the connection: POST "+cutPath+"?pane=ID", http.StatusBadRequest)
		return
	}
	n := b.cut(func(t *tunnel) bool { return t.pane == pane })
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]int{"cut": n}) // fails only when the client has gone
}

// cut ends the tunnels that match, and returns how many they were.
func (b *balancer) cut(match func(*tunnel) bool) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.tunnels {
		if match(t) {
			t.cut()
			n++
		}
	}
	return n
}

// roundTripper makes an http.RoundTripper of a function.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// roundTrip sends the request to a replica, and to the next one if no connection could be made. Only then:
// nothing was sent, so trying again cannot do anything twice.
func (b *balancer) roundTrip(r *http.Request) (*http.Response, error) {
	candidates := b.candidates(r)
	if len(candidates) == 0 {
		return nil, errors.New("there is no such replica")
	}
	var err error
	for _, c := range candidates {
		var res *http.Response
		if res, err = b.transport.RoundTrip(to(c, r)); err == nil {
			res.Header.Set(replicaHeader, c.name)
			return res, nil
		}
		err = fmt.Errorf("replica %s: %w", c.name, err)
		if refused, ok := errors.AsType[*net.OpError](err); !ok || refused.Op != "dial" || r.Context().Err() != nil {
			break
		}
	}
	return nil, err
}

// candidates returns the replicas to try, in order. One that was asked for by name has no substitute: the
// client would be told it is where it is not.
func (b *balancer) candidates(r *http.Request) []backend {
	if name := r.URL.Query().Get("replica"); name != "" {
		for _, c := range b.backends {
			if c.name == name {
				return []backend{c}
			}
		}
		return nil
	}
	n := len(b.backends)
	first := int((b.turn.Add(1) - 1) % uint64(n))
	order := make([]backend, 0, n)
	return append(append(order, b.backends[first:]...), b.backends[:first]...)
}

// to returns r as it goes to c. The transport closes the body of a request that it could not send; the next
// replica still needs it, and the server closes it anyway.
func to(c backend, r *http.Request) *http.Request {
	out := r.WithContext(r.Context())
	url := *r.URL
	url.Scheme, url.Host = "http", c.address
	out.URL = &url
	if out.Body != nil && out.Body != http.NoBody {
		out.Body = io.NopCloser(r.Body)
	}
	return out
}

func (b *balancer) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the client has gone, or was cut
	}
	b.logger.Warn("the load balancer got no answer", "path", r.URL.Path, "error", err)
	http.Error(w, "no replica answered: "+err.Error(), http.StatusBadGateway)
}
