package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"forgewire/infra/fakellm"
)

// target is a server with OpenAI's endpoints.
type target struct {
	base *url.URL
	key  string // "" sends none
	real bool   // its answers do not say what they were asked
}

// question is one chat request.
type question struct {
	model  string
	text   string
	stream bool
	user   string // "" leaves it out
}

// instructions precede each question, as an application's own do.
var instructions = strings.Repeat("You are the assistant of a shop. Answer in one paragraph, and only about its goods. ", 8)

// request is the question as it goes over the wire.
func (t target) request(q question) []byte {
	var more string
	if q.stream {
		more = `,"stream":true`
	}
	if q.user != "" {
		more += fmt.Sprintf(`,"user":%q`, q.user)
	}
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"system","content":%q},{"role":"user","content":%q}]%s}`, q.model, instructions, q.text, more)
	return fmt.Appendf(nil, "POST %s/v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		t.base.Path, t.base.Host, t.key, len(body), body)
}

// trivial asks for the least that a server does.
func (t target) trivial() []byte {
	return fmt.Appendf(nil, "GET %s/livez HTTP/1.1\r\nHost: %s\r\n\r\n", t.base.Path, t.base.Host)
}

// llmReply is what came of a request. Times count from when it was sent.
type llmReply struct {
	status int
	cache  string // hit, joined, stale or miss
	first  time.Duration
	done   time.Duration
}

// llmConn asks a target. One goroutine uses it.
type llmConn struct {
	*rawConn
	target target
	lines  *bufio.Reader
	buffer bytes.Buffer
}

func dialLLM(ctx context.Context, t target) (*llmConn, error) {
	raw, err := dialRaw(ctx, t.base)
	if err != nil {
		return nil, err
	}
	return &llmConn{rawConn: raw, target: t, lines: bufio.NewReaderSize(nil, 4<<10)}, nil
}

// ask sends a question, reads the answer to its end, and demands that it is this question's and whole. each
// gets the lines of a stream as they come.
func (c *llmConn) ask(q question, each func(line []byte)) (llmReply, error) {
	r, err := c.do(c.target.request(q), each)
	if err != nil {
		return r, err
	}
	switch {
	case r.status != http.StatusOK:
		return r, refusal(r.status, c.buffer.Bytes())
	case !c.target.real && !bytes.Contains(c.buffer.Bytes(), []byte(fakellm.Mark(q.text))):
		return r, fmt.Errorf("%w: the answer to %q is another question's: %.300s", ErrWrongAnswer, q.text, c.buffer.Bytes())
	case q.stream && !bytes.Contains(c.buffer.Bytes(), []byte("[DONE]")):
		return r, fmt.Errorf("%w: the stream is cut: %.300s", ErrWrongAnswer, c.buffer.Bytes())
	}
	return r, nil
}

// ErrWrongAnswer says that somebody got an answer to what he had not asked, or a part of one.
var ErrWrongAnswer = errors.New("a wrong answer")

// do sends a request and reads the response into buffer.
func (c *llmConn) do(request []byte, each func(line []byte)) (r llmReply, err error) {
	sent := time.Now()
	h, err := c.rawConn.ask(request)
	if err != nil {
		return r, err
	}
	r.status, r.cache = h.status, cacheStatus(h.cache)
	c.buffer.Reset()
	if !h.events {
		_, err = c.buffer.ReadFrom(c.body(h))
		r.done = time.Since(sent)
		r.first = r.done
	} else {
		err = c.stream(c.body(h), &r, sent, each)
	}
	if err != nil {
		return r, fmt.Errorf("read an answer's body: %w", err)
	}
	return r, nil
}

// stream reads a body line by line.
func (c *llmConn) stream(body io.Reader, r *llmReply, sent time.Time, each func(line []byte)) error {
	c.lines.Reset(body)
	for {
		line, err := c.lines.ReadSlice('\n')
		if r.first == 0 && bytes.Contains(line, []byte("re:")) {
			r.first = time.Since(sent)
		}
		if each != nil {
			each(line)
		}
		c.buffer.Write(line)
		if errors.Is(err, io.EOF) {
			r.done = time.Since(sent)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// cacheStatus says in one word what the header says: RFC 9211, as Forgewire and the naive cache write it.
func cacheStatus(header string) string {
	has := func(part string) bool {
		for p := range strings.SplitSeq(header, ";") {
			if strings.TrimSpace(p) == part {
				return true
			}
		}
		return false
	}
	switch {
	case has("collapsed"):
		return "joined"
	case has("fwd=stale"), has("detail=stale-if-error"):
		return "stale"
	case has("hit"):
		return "hit"
	}
	return "miss"
}

// tokenOf is the text of a chunk's first choice in a line of a stream; "" where there is none.
func tokenOf(line []byte) string {
	_, rest, ok := bytes.Cut(line, []byte(`"content":"`))
	if !ok {
		return ""
	}
	text, _, _ := bytes.Cut(rest, []byte(`"`)) // the fake model's tokens have no quotes
	return string(text)
}

// nanoseconds is now, as the stamps of tokens are.
func nanoseconds() int64 { return time.Now().UnixNano() }
