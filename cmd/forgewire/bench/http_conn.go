package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
)

// rawConn asks over one keep-alive HTTP/1.1 connection and reads of an answer's header only what is needed here: net/http's
// client takes as much of the CPU as the server that is to be measured. One goroutine uses it.
type rawConn struct {
	conn net.Conn
	in   *bufio.Reader
	stop func() bool
}

func dialRaw(ctx context.Context, base *url.URL) (*rawConn, error) {
	conn, err := dial(ctx, base)
	if err != nil {
		return nil, err
	}
	return &rawConn{conn: conn, in: bufio.NewReaderSize(conn, 16<<10),
		stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil // ends what waits on it
}

func (c *rawConn) close() {
	c.stop()
	_ = c.conn.Close() // nothing is under way
}

// rawHeader is what comes before an answer's body.
type rawHeader struct {
	status  int
	length  int  // -1 where there is none
	chunked bool // then that ends the body
	events  bool // the body is server-sent events
	cache   string
}

var (
	errAnswer   = errors.New("the answer is not HTTP/1.1 of a known length")
	chunkedKey  = []byte("transfer-encoding: chunked")
	lengthKey   = []byte("content-length:")
	eventsKey   = []byte("content-type: text/event-stream")
	cacheKey    = []byte("cache-status:")
	emptyHeader = []byte("\r\n")
)

// do sends a request and reads the whole answer, its body into body. It returns the status and how many bytes
// that had.
func (c *rawConn) do(request []byte, body io.Writer) (status, size int, err error) {
	h, err := c.ask(request)
	if err != nil {
		return 0, 0, err
	}
	n, err := io.Copy(body, c.body(h))
	if err != nil {
		return 0, 0, fmt.Errorf("read an answer's body: %w", err)
	}
	return h.status, int(n), nil
}

// ask sends a request and reads the answer up to its body, which must be read before the next one.
func (c *rawConn) ask(request []byte) (rawHeader, error) {
	if _, err := c.conn.Write(request); err != nil {
		return rawHeader{}, fmt.Errorf("send a request: %w", err)
	}
	h, err := c.header()
	if err != nil {
		return rawHeader{}, fmt.Errorf("read an answer: %w", err)
	}
	return h, nil
}

// header reads up to the body.
func (c *rawConn) header() (rawHeader, error) {
	h := rawHeader{length: -1}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return h, err //nolint:wrapcheck // ask says what was attempted
	}
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return h, errAnswer
	}
	if h.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return h, errAnswer
	}
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return h, err //nolint:wrapcheck // ask says what was attempted
		}
		switch {
		case bytes.Equal(line, emptyHeader):
			if h.length < 0 && !h.chunked {
				return h, errAnswer
			}
			return h, nil
		case begins(line, lengthKey):
			if h.length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(lengthKey):]))); err != nil || h.length < 0 {
				return h, errAnswer
			}
		case begins(line, chunkedKey):
			h.chunked = true
		case begins(line, eventsKey):
			h.events = true
		case begins(line, cacheKey):
			h.cache = string(bytes.TrimSpace(line[len(cacheKey):]))
		}
	}
}

func begins(line, key []byte) bool {
	return len(line) >= len(key) && bytes.EqualFold(line[:len(key)], key)
}

// body is what follows a header. One that is cut ends with an error.
func (c *rawConn) body(h rawHeader) io.Reader {
	if h.chunked {
		return &chunkedBody{httputil.NewChunkedReader(c.in), c.in}
	}
	return &countedBody{c.in, h.length}
}

type chunkedBody struct {
	chunks io.Reader
	in     *bufio.Reader
}

// Read also takes what ends the trailers, of which there are none.
func (b *chunkedBody) Read(p []byte) (int, error) {
	n, err := b.chunks.Read(p)
	if errors.Is(err, io.EOF) {
		if _, cut := b.in.Discard(len(emptyHeader)); cut != nil {
			return n, io.ErrUnexpectedEOF
		}
	}
	return n, err //nolint:wrapcheck // as io.Reader
}

type countedBody struct {
	in   *bufio.Reader
	left int
}

// Read gives no more than the header says.
func (b *countedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.in.Read(p[:min(len(p), b.left)])
	if b.left -= n; errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err //nolint:wrapcheck // as io.Reader
}
