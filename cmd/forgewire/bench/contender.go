package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// contender is a server that is measured: Forgewire, or the peer beside it.
type contender struct {
	name   string
	urls   []*url.URL // of its processes
	pids   []int
	apiKey string
	stop   func() error
}

func (c *contender) servers() (hosts []string) {
	for _, u := range c.urls {
		hosts = append(hosts, u.Host)
	}
	return hosts
}

// CrowdConfig is what the benchmarks with thousands of clients have in common.
type CrowdConfig struct {
	Peer string // the peer's program; "" to build it where this is the repository, or go without

	Binary   string    // forgewire, for the replicas and the loaders
	Environ  []string  // of which the replicas get the variables of the Go runtime
	Progress io.Writer // gets a line for each step
}

// namespaces are what the benchmarks' channels need; the peer goes by the same names.
const namespaces = `{"namespaces":[{"name":"crowd","presence":true},{"name":"past"}]}`

// forgewire starts replicas that take so many connections each, on a private PostgreSQL.
func (c *CrowdConfig) forgewire(ctx context.Context, replicas, connections int) (*contender, error) {
	st, err := startStack(ctx, stackConfig{Binary: c.Binary, Environ: c.Environ, Replicas: replicas, Progress: c.Progress,
		Variables: []string{fmt.Sprintf("FORGEWIRE_MAX_CONNECTIONS=%d", connections+100), "FORGEWIRE_NAMESPACES=" + namespaces}})
	if err != nil {
		return nil, err
	}
	f := &contender{name: "forgewire", apiKey: st.apiKey, stop: func() error { return st.stop(ctx) }}
	for _, r := range st.replicas {
		f.urls, f.pids = append(f.urls, r.url), append(f.pids, r.pid)
	}
	return f, nil
}

// peer starts the peer, or returns nil where there is none.
func (c *CrowdConfig) peer(ctx context.Context) (*contender, error) {
	if c.Peer == "" {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	r, err := startServer(ctx, c.Peer, nil, goVariables(c.Environ))
	if err != nil {
		return nil, err
	}
	return &contender{name: "centrifuge", urls: []*url.URL{r.url}, pids: []int{r.pid}, stop: r.stop}, nil
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
	at, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for {
		if b, err := os.ReadFile(filepath.Join(at, "go.mod")); err == nil && strings.HasPrefix(string(b), "module forgewire\n") {
			break
		}
		up := filepath.Dir(at)
		if up == at {
			return "", nil
		}
		at = up
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
		return fmt.Errorf("call %s: status %d: %.200s", method, resp.StatusCode, text) //nolint:err113 // the server's words
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

// publish publishes messages from number first on, in as few requests as they need.
func (c *contender) publish(ctx context.Context, channel string, first, n, size int) error {
	type command struct {
		Publish crowdMessage `json:"publish"`
	}
	for end := first + n; first < end; {
		var commands []command
		for ; first < end && len(commands) < batchSize; first++ {
			commands = append(commands, command{crowdMessage{Channel: channel, Data: crowdData(first, size)}})
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

// minCrowdData is room for the number.
const minCrowdData = 32

// crowdData is a message's data of a size, with its number on the channel, from 0.
func crowdData(number, size int) json.RawMessage {
	head := fmt.Sprintf(`{"n":%d,"x":"`, number)
	return json.RawMessage(head + strings.Repeat("x", max(size-len(head)-2, 0)) + `"}`)
}
