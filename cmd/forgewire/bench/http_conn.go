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

// rawConn asks over one keep-alive HTTP/1.1 connection and reads of an answer its status and its length: net/http's
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

var (
	errAnswer   = errors.New("the answer is not HTTP/1.1 of a known length")
	chunkedKey  = []byte("transfer-encoding: chunked")
	lengthName  = []byte("content-length:")
	emptyHeader = []byte("\r\n")
)

// do sends a request and reads the whole answer, into body if that is not nil. It returns the status and how many
// bytes the body had.
func (c *rawConn) do(request []byte, body io.Writer) (status, size int, err error) {
	if _, err = c.conn.Write(request); err != nil {
		return 0, 0, fmt.Errorf("send a request: %w", err)
	}
	status, length, chunked, err := c.header()
	if err != nil {
		return 0, 0, fmt.Errorf("read an answer: %w", err)
	}
	if !chunked && body == nil {
		size, err = c.in.Discard(length)
	} else {
		var n int64
		n, err = c.copy(body, length, chunked)
		size = int(n)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read an answer's body: %w", err)
	}
	return status, size, nil
}

func (c *rawConn) copy(body io.Writer, length int, chunked bool) (int64, error) {
	if body == nil {
		body = io.Discard
	}
	if !chunked {
		return io.CopyN(body, c.in, int64(length)) //nolint:wrapcheck // do says what was attempted
	}
	n, err := io.Copy(body, httputil.NewChunkedReader(c.in)) // an answer that is cut has no last chunk, and is an error
	if err != nil {
		return n, err //nolint:wrapcheck // do says what was attempted
	}
	_, err = c.in.Discard(len(emptyHeader)) // what ends the trailers, of which there are none
	return n, err                           //nolint:wrapcheck // do says what was attempted
}

// header reads up to the body.
func (c *rawConn) header() (status, length int, chunked bool, err error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, 0, false, err //nolint:wrapcheck // do says what was attempted
	}
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, 0, false, errAnswer
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, false, errAnswer
	}
	length = -1
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return 0, 0, false, err //nolint:wrapcheck // do says what was attempted
		}
		switch {
		case bytes.Equal(line, emptyHeader):
			if length < 0 && !chunked {
				return 0, 0, false, errAnswer
			}
			return status, length, chunked, nil
		case len(line) >= len(lengthName) && bytes.EqualFold(line[:len(lengthName)], lengthName):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(lengthName):]))); err != nil || length < 0 {
				return 0, 0, false, errAnswer
			}
		case bytes.EqualFold(bytes.TrimSpace(line), chunkedKey):
			chunked = true
		}
	}
}
