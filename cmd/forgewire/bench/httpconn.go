package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
)

// httpConn publishes over one keep-alive HTTP/1.1 connection. It is not net/http, whose client takes as much
// of the CPU for a request as the server does: the request is built once and its stamps are patched in place,
// and of the response only the status, the length and the offset are read. It is used by one goroutine.
type httpConn struct {
	net.Conn
	request []byte
	data    []byte // the part of request that is stamped
	in      []byte // read and not yet consumed is in[:n]
	n       int
	stop    func() bool
}

func (c *httpConn) close() {
	c.stop()
	_ = c.Conn.Close() // nothing is under way, or an error says so
}

// dialHTTP connects to base, and makes a request that publishes data of a size on channel.
func dialHTTP(ctx context.Context, base *url.URL, apiKey, channel string, size int) (*httpConn, error) {
	c := &httpConn{in: make([]byte, 16<<10)}
	data := newData(size)
	body := fmt.Appendf(nil, `{"channel":%q,"data":%s}`, channel, data)
	c.request = fmt.Appendf(nil, "POST %s/api/publish HTTP/1.1\r\nHost: %s\r\nX-API-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		base.Path, base.Host, apiKey, len(body), body)
	c.data = c.request[len(c.request)-len(data)-1 : len(c.request)-1]

	var err error
	if c.Conn, err = dial(ctx, base); err != nil {
		return nil, err
	}
	c.stop = context.AfterFunc(ctx, func() { _ = c.Conn.Close() }) // ends what waits on it
	return c, nil
}

// publish sends the request and returns the offset of the reply. An error that is not refused ends the
// connection.
func (c *httpConn) publish() (offset uint64, err error) {
	if _, err = c.Write(c.request); err != nil {
		return 0, fmt.Errorf("send a publish: %w", err)
	}
	var header, body []byte
	for {
		if end := bytes.Index(c.in[:c.n], headerEnd); end >= 0 {
			header = c.in[:end+2]
			length, ok := contentLength(header)
			if !ok {
				return 0, errors.New("read a reply: it has no Content-Length: is a proxy in between?")
			}
			if total := end + len(headerEnd) + length; total > len(c.in) {
				return 0, errors.New("read a reply: it is too large")
			} else if c.n >= total {
				body = c.in[end+len(headerEnd) : total]
				break
			}
		}
		n, err := c.Read(c.in[c.n:])
		if err != nil {
			return 0, fmt.Errorf("read a reply: %w", err)
		}
		c.n += n
	}
	c.n = 0 // we sent one request: nothing can follow
	if len(header) < len(statusOK) {
		return 0, errors.New("read a reply: it is not HTTP/1.1")
	}
	if bytes.HasPrefix(header, statusOK) {
		if at, _, ok := findOffset(body); ok {
			return at, nil
		}
	}
	status, _ := strconv.Atoi(string(header[9:12])) // 0 is no status, which says as much
	return 0, apiRefusal(status, body)
}

// apiRefusal tells apart by its code what the server API refuses with status 200.
func apiRefusal(status int, body []byte) refused {
	if m := errorCode.FindSubmatch(body); status == http.StatusOK && m != nil {
		return refused{"code " + string(m[1]), string(body)}
	}
	return refusal(status, body)
}

var errorCode = regexp.MustCompile(`"code":\s*(\d+)`)

var (
	headerEnd = []byte("\r\n\r\n")
	statusOK  = []byte("HTTP/1.1 200 ")
	lengthKey = []byte("\r\ncontent-length:")
)

func contentLength(header []byte) (int, bool) {
	for {
		i := bytes.Index(header, []byte("\r\n"))
		if i < 0 || len(header) < i+len(lengthKey) {
			return 0, false
		}
		header = header[i:]
		if bytes.EqualFold(header[:len(lengthKey)], lengthKey) {
			line, _, _ := bytes.Cut(header[len(lengthKey):], []byte("\r\n"))
			n, err := strconv.Atoi(string(bytes.TrimSpace(line)))
			return n, err == nil && n >= 0
		}
		header = header[2:]
	}
}
