package llm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"forgewire/infra/monitor"
)

// Retries of one upstream, before the next one is asked.
const (
	maxRetries    = 2
	firstWait     = 250 * time.Millisecond
	maxRetryAfter = 5 * time.Second // an upstream that wants more is left for the next one, or its answer given
	maxErrorBytes = 64 << 10        // of an answer that is an error
	drainWithin   = time.Second     // of one that nobody wants
)

var (
	errBroken    = errors.New("the upstream failed too often and is left alone for a while")
	errRedirect  = errors.New("the upstream answered with a redirect, which is not followed")
	errNoKey     = errors.New("the upstream needs a key of the caller's own, in Authorization")
	errTooLarge  = errors.New("the upstream's answer is too large")
	errSilent    = errors.New("the upstream sent nothing for too long")
	errTruncated = errors.New("the upstream ended the answer early")
)

// client asks upstreams.
type client struct {
	upstreams Upstreams
	transport http.RoundTripper
	closeIdle func()
	breakers  *breakers
}

// newClient makes a client; wrap, if not nil, puts something around its transport.
func newClient(u Upstreams, wrap func(http.RoundTripper) http.RoundTripper) *client {
	own := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 512,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // answers pass through byte for byte
	}
	c := &client{upstreams: u, breakers: newBreakers(), transport: own, closeIdle: own.CloseIdleConnections}
	if wrap != nil {
		c.transport = wrap(own)
	}
	return c
}

// A question is what an upstream is asked.
type question struct {
	method string
	path   string // below the base URL, with the query
	body   func(model string) []byte
	routes []route
	header http.Header // of the caller's, what may go on
	ownKey string      // the caller's own key, for upstreams with PassThrough
}

// An answer is an upstream's response whose body has not been read.
type answer struct {
	*http.Response
	route    route
	fallback bool                    // not by the first route
	ctx      context.Context         // of the body: ends with the upstream's timeout
	cancel   context.CancelCauseFunc // with why
	stop     func()                  // lets go of ctx
}

// close gives up what has not been read.
func (a *answer) close() {
	_ = a.Body.Close()
	a.stop()
}

// ask returns the first answer that is worth giving: of the first upstream that does not fail, or the last failure.
// ctx covers the body too.
func (c *client) ask(ctx context.Context, q question) (*answer, error) {
	var last *answer
	err := errBroken
	for i, r := range q.routes {
		if !c.breakers.allow(r, time.Now()) {
			continue
		}
		ans, e := c.askOne(ctx, q, r)
		if ctx.Err() != nil {
			discard(ans)
			discard(last)
			return nil, fmt.Errorf("ask %s: %w", r.upstream.Name, context.Cause(ctx))
		}
		discard(last)
		last, err = ans, e
		if ans != nil {
			ans.fallback = i > 0
			if !isRetryable(ans.Response) {
				c.breakers.succeeded(r)
				return ans, nil
			}
		}
		// Once for a request, however often it was tried: it may be the request that the upstream cannot stand.
		if ans != nil && ans.StatusCode >= 500 || e != nil && !errors.Is(e, errNoKey) {
			c.breakers.failed(r, time.Now())
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, err
}

// askOne asks one upstream, again if that may help. Its timeout begins here, and is its own: who hangs does not take
// the next one's time.
func (c *client) askOne(ctx context.Context, q question, r route) (last *answer, err error) {
	own, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(r.upstream.Timeout, func() { cancel(errSilent) })
	stop := func() {
		timer.Stop()
		cancel(nil)
	}
	defer func() {
		if last == nil {
			stop()
		}
	}()
	for attempt := 0; ; attempt++ {
		resp, e := c.send(own, q, r) // whoever gets the answer closes it, and drain those that nobody gets
		if own.Err() != nil {
			if e == nil {
				_ = resp.Body.Close() // it came too late
			}
			return nil, fmt.Errorf("ask %s: %w", r.upstream.Name, context.Cause(own))
		}
		wait := firstWait<<attempt + rand.N(firstWait)
		again := attempt < maxRetries && c.breakers.left(r, time.Now()) == 0
		if e != nil {
			if !again || errors.Is(e, errNoKey) || errors.Is(e, errRedirect) {
				return nil, e
			}
		} else {
			after := retryAfter(resp.Header, time.Now())
			if !again || !isRetryable(resp) || after > maxRetryAfter {
				return &answer{Response: resp, route: r, ctx: own, cancel: cancel, stop: stop}, nil
			}
			wait = max(wait, after)
			drain(resp)
		}
		if !pause(own, wait) {
			return nil, fmt.Errorf("ask %s: %w", r.upstream.Name, context.Cause(own))
		}
	}
}

// send makes one attempt.
func (c *client) send(ctx context.Context, q question, r route) (*http.Response, error) {
	u := r.upstream
	target := u.URL.JoinPath()
	path, query, _ := strings.Cut(q.path, "?")
	target.Path += "/" + path
	if query != "" {
		target.RawQuery = query
	}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body(r.model))
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make a request for %s: %w", u.Name, err)
	}
	for name, values := range q.header {
		req.Header[name] = values
	}
	switch {
	case u.Key == PassThrough && q.ownKey == "":
		return nil, errNoKey
	case u.Key == PassThrough:
		req.Header.Set("Authorization", "Bearer "+q.ownKey)
	case u.Key != "":
		req.Header.Set("Authorization", "Bearer "+u.Key)
	}
	waiting := monitor.Span(req.Context(), monitor.Upstream)
	resp, err := c.transport.RoundTrip(req)
	waiting.End() // the answer begins
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.Name, err)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		_ = resp.Body.Close() // of no use
		return nil, errRedirect
	}
	return resp, nil
}

// isRetryable says what the OpenAI SDKs try again.
func isRetryable(r *http.Response) bool {
	switch r.Header.Get("x-should-retry") {
	case "true":
		return true
	case "false":
		return false
	}
	return r.StatusCode == http.StatusRequestTimeout || r.StatusCode == http.StatusConflict ||
		r.StatusCode == http.StatusTooManyRequests || r.StatusCode >= 500
}

// retryAfter reads how long the upstream wants to be left alone: in milliseconds, seconds, or as a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("retry-after-ms"), 64); err == nil && ms >= 0 && ms < 1e9 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	after := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(after, 64); err == nil && s >= 0 && s < 1e6 {
		return time.Duration(s * float64(time.Second))
	}
	if at, err := http.ParseTime(after); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// discard gives an answer up whose place another one takes.
func discard(a *answer) {
	if a != nil {
		drain(a.Response)
		a.stop()
	}
}

// drain reads the rest, so that the connection can be used again, but does not wait long for it.
func drain(r *http.Response) {
	defer time.AfterFunc(drainWithin, func() { _ = r.Body.Close() }).Stop()
	_, _ = io.CopyN(io.Discard, r.Body, maxErrorBytes)
	_ = r.Body.Close()
}

// retryIn is when a request for these routes may go well again, as far as the breakers know.
func (c *client) retryIn(routes []route) time.Duration {
	least := maxBreak
	for _, r := range routes {
		least = min(least, c.breakers.left(r, time.Now()))
	}
	return max(least, time.Second)
}

// close lets go of connections that wait for the next request.
func (c *client) close() {
	c.closeIdle()
}
