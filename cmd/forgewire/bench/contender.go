package bench

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// contender is a server that is measured: Forgewire, or the peer beside it.
type contender struct {
	name   string
	urls   []*url.URL // of its processes
	pids   []int      // none where they run elsewhere
	apiKey string
	token  string // of its clients; "" for anonymous ones
	stop   func() error
}

// CrowdConfig is what the benchmarks with thousands of clients have in common.
type CrowdConfig struct {
	Setup

	Peer string // the peer's program; "" to go without
}

// namespaces are what the benchmarks' channels need; the peer goes by the same names.
const namespaces = `{"namespaces":[{"name":"crowd","presence":true},{"name":"past"}]}`

// channel is a new one in a namespace of ours, which a deployment of somebody else's does not have.
func (c *CrowdConfig) channel(namespace string) string {
	if c.Target.Given() {
		namespace = c.Target.Namespace
	}
	if namespace != "" {
		namespace += ":"
	}
	return namespace + "bench-" + rand.Text()[:8]
}

// forgewire starts replicas that take so many connections each, on a private PostgreSQL; or it is the deployment that
// is to be measured.
func (c *CrowdConfig) forgewire(ctx context.Context, replicas, connections int) (*contender, error) {
	if c.Target.Given() {
		urls, err := c.Target.parse()
		return &contender{name: forgewire, urls: urls, apiKey: c.Target.APIKey, token: c.Target.Token, stop: func() error { return nil }}, err
	}
	st, err := c.start(ctx, stackConfig{Replicas: replicas,
		Variables: []string{fmt.Sprintf("FORGEWIRE_MAX_CONNECTIONS=%d", connections+100), "FORGEWIRE_NAMESPACES=" + namespaces}})
	if err != nil {
		return nil, err
	}
	f := &contender{name: forgewire, apiKey: st.apiKey, stop: func() error { return st.stop(ctx) }}
	for _, r := range st.replicas {
		f.urls, f.pids = append(f.urls, r.url), append(f.pids, r.pid)
	}
	return f, nil
}

// Names of the contenders, and of the table that divides them.
const (
	forgewire  = "forgewire"
	centrifuge = "centrifuge"
	besidePeer = "beside centrifuge"
)

// besideRows divides each row of Forgewire's by the peer's: those whose names are equal but for the contender's.
func besideRows(t *Table) *Table {
	out := &Table{Name: besidePeer}
	for _, r := range t.Rows {
		name, ours := strings.CutPrefix(r.Name, forgewire)
		if theirs := t.row(centrifuge + name); ours && theirs != nil {
			out.Rows = append(out.Rows, beside(strings.TrimPrefix(cmp.Or(name, "ratio"), ", "), r, theirs))
		}
	}
	return out
}

// withRatios are a table and, where there was a peer, what it is beside it.
func withRatios(t *Table) []*Table {
	if r := besideRows(t); len(r.Rows) > 0 {
		return []*Table{t, r}
	}
	return []*Table{t}
}

// cpuSince is what the servers took for each of n things since a time, in microseconds; without servers of our own there
// is no such figure.
func (c *contender) cpuSince(before []time.Duration, name string, n float64) ([]Figure, error) {
	if len(c.pids) == 0 {
		return nil, nil
	}
	after, err := exactCPUTimes([][]int{c.pids})
	if err != nil {
		return nil, err
	}
	return []Figure{less(name, "µs", ratio(float64((after[0]-before[0]).Nanoseconds())/1e3, n))}, nil
}

func (c *contender) cpu() ([]time.Duration, error) { return exactCPUTimes([][]int{c.pids}) }

// peer starts the peer, or returns nil where there is none.
func (c *CrowdConfig) peer(ctx context.Context) (*contender, error) {
	if c.Peer == "" || c.Target.Given() {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	r, err := startServer(ctx, c.Peer, nil, goVariables(c.Environ))
	if err != nil {
		return nil, err
	}
	return &contender{name: centrifuge, urls: []*url.URL{r.url}, pids: []int{r.pid}, stop: r.stop}, nil
}

// contenders starts Forgewire and the peer, to be measured in turns.
func (c *CrowdConfig) contenders(ctx context.Context, replicas, connections int) ([]*contender, error) {
	f, err := c.forgewire(ctx, replicas, connections)
	if err != nil {
		return nil, err
	}
	p, err := c.peer(ctx)
	if err != nil {
		return nil, errors.Join(err, f.stop())
	}
	if p == nil {
		return []*contender{f}, nil
	}
	return []*contender{f, p}, nil
}

func stopContenders(all []*contender) error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.stop())
	}
	return errors.Join(errs...)
}

// peerFolder is where the peer's source is, in this repository.
const peerFolder = "e2e/peer"

// BuildPeer builds the peer in dir if the working directory is in Forgewire's repository. Elsewhere it returns "".
func BuildPeer(ctx context.Context, dir string, progress io.Writer) (string, error) {
	at, err := repository()
	if err != nil || at == "" {
		return "", err
	}
	fmt.Fprintln(progress, "building the peer in", peerFolder)
	program := filepath.Join(dir, "peer")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	cmd.Dir = filepath.Join(at, peerFolder)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the peer: %w: %s", err, bytes.TrimSpace(out))
	}
	return program, nil
}

// apiTimeout bounds one call; a list of ten thousand members takes its time.
const apiTimeout = 30 * time.Second

var apiClient = &http.Client{Timeout: apiTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// call asks the server API of one of the contender's processes.
func (c *contender) call(ctx context.Context, process int, method string, in, result any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode a request: %w", err)
	}
	u := c.urls[process%len(c.urls)].JoinPath("api", method)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-API-Key", c.apiKey)
	resp, err := apiClient.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	var out struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	if err = json.Unmarshal(text, &out); err != nil || resp.StatusCode != http.StatusOK || out.Error != nil {
		return fmt.Errorf("call %s: %w", method, apiRefusal(resp.StatusCode, text))
	}
	if result == nil {
		return nil
	}
	if err = json.Unmarshal(out.Result, result); err != nil {
		return fmt.Errorf("decode the result of %s: %w", method, err)
	}
	return nil
}

// batchSize is how many messages a request publishes.
const batchSize = 100

// publish publishes messages from number first on, which were due at a time, in as few requests as they need.
func (c *contender) publish(ctx context.Context, channel string, first, n, size int, at int64) error {
	type command struct {
		Publish crowdMessage `json:"publish"`
	}
	for end := first + n; first < end; {
		var commands []command
		for ; first < end && len(commands) < batchSize; first++ {
			commands = append(commands, command{crowdMessage{Channel: channel, Data: crowdData(first, size, at)}})
		}
		if err := c.call(ctx, 0, "batch", map[string]any{"commands": commands}, nil); err != nil {
			return err
		}
	}
	return nil
}

type crowdMessage struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

// minCrowdData is room for the number and the time.
const minCrowdData = 64

// crowdData is a message's data of a size, with its number on the channel, from 0, and when it was due.
func crowdData(number, size int, at int64) json.RawMessage {
	head := fmt.Sprintf(`{"n":%d,"t":%d,"x":"`, number, at)
	return json.RawMessage(head + strings.Repeat("x", max(size-len(head)-2, 0)) + `"}`)
}
