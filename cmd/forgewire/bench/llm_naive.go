package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// naiveCache is what many write in an afternoon: the key is a hash of the request as it came, only whole
// answers that do not stream are kept, and nobody waits for anybody. It has no bound, no TTL and no tenants,
// none of which the mixes need.
type naiveCache struct {
	target
	upstream string // without /v1
	client   *http.Client
	server   *http.Server
	served   chan struct{} // closed when the server has ended

	mu      sync.Mutex
	answers map[[sha256.Size]byte][]byte // guarded by mu
}

func startNaive(ctx context.Context, upstream string) (*naiveCache, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the naive cache: %w", err)
	}
	n := &naiveCache{
		target:   target{base: &url.URL{Scheme: "http", Host: l.Addr().String()}},
		upstream: strings.TrimSuffix(upstream, "/v1"),
		client:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: mixWorkers}},
		served:   make(chan struct{}),
		answers:  map[[sha256.Size]byte][]byte{},
	}
	n.server = &http.Server{Handler: n, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(n.served)
		_ = n.server.Serve(l) // ends with stop
	}()
	return n, nil
}

func (n *naiveCache) stop() {
	_ = n.server.Close() // nothing is under way
	<-n.served
	n.client.CloseIdleConnections()
}

func (n *naiveCache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client left
	}
	key := sha256.Sum256(body)
	if answer, ok := n.get(key); ok {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Status", "naive; hit")
		_, _ = w.Write(answer) // the client may have left
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, n.upstream+r.URL.Path, bytes.NewReader(body)) //nolint:gosec // the benchmark asks itself
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := n.client.Do(req) //nolint:gosec // the same
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	w.Header().Set("Cache-Status", "naive; fwd=miss")
	w.WriteHeader(res.StatusCode)
	if isStream(body) {
		copyFlushing(w, res.Body)
		return
	}
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode == http.StatusOK {
		n.put(key, answer)
	}
	_, _ = w.Write(answer) // the client may have left
}

func (n *naiveCache) get(key [sha256.Size]byte) ([]byte, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	answer, ok := n.answers[key]
	return answer, ok
}

func (n *naiveCache) put(key [sha256.Size]byte, answer []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[key] = answer
}

func isStream(body []byte) bool {
	var q struct {
		Stream bool `json:"stream"`
	}
	return json.Unmarshal(body, &q) == nil && q.Stream
}

// copyFlushing passes on what comes, as it comes.
func copyFlushing(w http.ResponseWriter, from io.Reader) {
	flusher := http.NewResponseController(w)
	buffer := make([]byte, 4<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			if err := flusher.Flush(); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
