package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
)

// publishConn publishes over one connection: the request is built once and its stamps are patched in place. It is used by
// one goroutine.
type publishConn struct {
	*rawConn
	request []byte
	data    []byte // the part of request that is stamped
	reply   bytes.Buffer
}

// dialPublish connects to base, and makes a request that publishes data of a size on channel.
func dialPublish(ctx context.Context, base *url.URL, apiKey, channel string, size int) (*publishConn, error) {
	raw, err := dialRaw(ctx, base)
	if err != nil {
		return nil, err
	}
	data := newData(size)
	body := fmt.Appendf(nil, `{"channel":%q,"data":%s}`, channel, data)
	request := fmt.Appendf(nil, "POST %s/api/publish HTTP/1.1\r\nHost: %s\r\nX-API-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		base.Path, base.Host, apiKey, len(body), body)
	return &publishConn{rawConn: raw, request: request, data: request[len(request)-len(data)-1 : len(request)-1]}, nil
}

// publish sends the request and returns the offset of the reply. An error that is not refused ends the
// connection.
func (c *publishConn) publish() (offset uint64, err error) {
	c.reply.Reset()
	status, _, err := c.do(c.request, &c.reply)
	if err != nil {
		return 0, err
	}
	if status == http.StatusOK {
		if at, _, ok := findOffset(c.reply.Bytes()); ok {
			return at, nil
		}
	}
	return 0, apiRefusal(status, c.reply.Bytes())
}

// apiRefusal tells apart by its code what the server API refuses with status 200.
func apiRefusal(status int, body []byte) refused {
	if m := errorCode.FindSubmatch(body); status == http.StatusOK && m != nil {
		return refused{"code " + string(m[1]), string(body)}
	}
	return refusal(status, body)
}

var errorCode = regexp.MustCompile(`"code":\s*(\d+)`)
