package handlers_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Every method, understood and not.
func TestAPI(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.connect(t, 0, "alice", "room:1", "plain")
	for _, x := range []struct{ method, body, want string }{
		{"publish", `{"channel":"room:1","data":{"a":1},"tags":{"t":"1"}}`, `{"result":{"offset":`},
		{"publish", `{"channel":"cursor:1","data":1}`, `{"result":{"offset":0`},
		{"publish", `{"channel":"","data":1}`, `"code":107`},
		{"publish", `{"channel":"room:1"}`, `"code":107`},
		{"publish", `{"channel":"room:1","data":1,"nonsense":1}`, `"code":107`},
		{"publish", `[]`, `"code":107`},
		{"publish", `{} {}`, `not valid JSON`},
		{"broadcast", `{"channels":["room:1","room:2"],"data":1}`, `{"result":{"responses":[{"result":{"offset":`},
		{"broadcast", `{"channels":[],"data":1}`, `"code":107`},
		{"broadcast", `{"channels":[` + strings.Repeat(`"a",`, 1000) + `"a"],"data":1}`, `"code":106`},
		{"history", `{"channel":"room:1","limit":10}`, `"publications":[{"data":{"a":1},"offset":`},
		{"history", `{"channel":"cursor:1","limit":10}`, `"code":108`},
		{"history", `{"channel":"room:1","limit":10,"since":{"offset":1,"epoch":"other"}}`, `"code":112`},
		{"history_remove", `{"channel":"room:1"}`, `{"result":{}}`},
		{"history", `{"channel":"room:1","limit":10}`, `"publications":[],`},
		{"history", `{"channel":"room:2","limit":10}`, `"publications":[{"data":1`},
		{"history_remove", `{"channel":"cursor:1"}`, `"code":108`},
		{"history_remove", `{"channel":""}`, `"code":107`},
		{"presence", `{"channel":"room:1"}`, `"user":"alice"`},
		{"presence", `{"channel":"room:2"}`, `{"result":{"presence":{}}}`},
		{"presence", `{"channel":"plain"}`, `"code":108`},
		{"presence", `{"channel":"é"}`, `"code":107`},
		{"presence_stats", `{"channel":"room:1"}`, `{"result":{"num_clients":1,"num_users":1}}`},
		{"presence_stats", `{"channel":"plain"}`, `"code":108`},
		{"channels", `{}`, `{"result":{"channels":{"plain":{"num_clients":1},"room:1":{"num_clients":1}}}}`},
		{"channels", `{"pattern":"room:*"}`, `{"result":{"channels":{"room:1":{"num_clients":1}}}}`},
		{"channels", `{"pattern":"["}`, `"code":107`},
		{"info", `{}`, `"num_clients":1,"num_users":1,"num_subs":2,"num_channels":2`},
		{"info", `{"a":1}`, `"code":107`},
		{"rpc", `{"method":"m","params":{}}`, `"code":108`},
		{"subscribe", `{"user":"u","channel":"room:1","info":{"a":1},"data":1}`, `{"result":{}}`},
		{"subscribe", `{"user":"u","channel":""}`, `"code":107`},
		{"subscribe", `{"channel":"room:1"}`, `"code":107`},
		{"subscribe", `{"user":"u","channel":"room:1","recover_since":{"offset":1}}`, `recover_since is not supported`},
		{"unsubscribe", `{"user":"u","channel":"room:1"}`, `{"result":{}}`},
		{"unsubscribe", `{"user":"u"}`, `"code":107`},
		{"refresh", `{"user":"u","expire_at":4000000000}`, `{"result":{}}`},
		{"refresh", `{"user":"u","expired":true}`, `{"result":{}}`},
		{"refresh", `{"user":"u","expire_at":-1}`, `"code":107`},
		{"refresh", `{"expire_at":1}`, `"code":107`},
		{"disconnect", `{}`, `"code":107`},
		{"disconnect", `{"user":"u","disconnect":{"code":1000}}`, `"code":107`},
		{"disconnect", `{"user":"u","disconnect":{"reason":"why"}}`, `"code":107`},
		{"disconnect", `{"user":"u","disconnect":{"code":4000,"reason":"` + strings.Repeat("r", 124) + `"}}`, `"code":106`},
		{"disconnect", `{"user":"u","whitelist":["a"]}`, `whitelist is not supported`},
		{"disconnect", `{"user":"u"}`, `{"result":{}}`},
		{"batch", `{"commands":[{"publish":{"channel":"b","data":1}},{"publish":{"channel":"b","data":2}},{"presence_stats":{"channel":"room:1"}},
			{"rpc":{"method":"m"}},{"nothing":{}},{"publish":{},"info":{}},{"info":{}}]}`,
			`{"presence_stats":{"num_clients":1,"num_users":1}},{"error":{"code":108`},
		{"batch", `{"commands":[` + strings.Repeat(`{"info":{}},`, 1000) + `{"info":{}}]}`, `more than 1000`},
		{"batch", `{"commands":1}`, `"code":107`},
	} {
		if _, reply := c.call(t, 1, x.method, x.body); !strings.Contains(reply, x.want) {
			t.Errorf("%s %.100s\n got %s\nwant %s", x.method, x.body, reply, x.want)
		}
	}
	// SDKs send fields that they do not use.
	if status, reply := c.request(t, 0, http.MethodPost, "/api/disconnect", apiKey, `{"user":"u","client":"","session":"","whitelist":[ ],"disconnect":null}`); status != 200 || reply != `{"result":{}}` {
		t.Errorf("empty fields: %d %s", status, reply)
	}
	if status, _ := c.call(t, 0, "publish", `{"channel":"room:1","data":"`+strings.Repeat("x", 5<<20)+`"}`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large request: %d", status)
	}
}

// What is asked of one replica means all of them.
func TestAPIAcrossReplicas(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	here, there, stays := c.connect(t, 0, "alice", "room:1"), c.connect(t, 1, "alice", "room:1"), c.connect(t, 1, "bob", "room:2", "room:1")
	for replica := range 2 {
		eventually(t, "all channels", func() bool {
			_, reply := c.call(t, replica, "channels", `{}`)
			return strings.Contains(reply, `"room:1":{"num_clients":3}`) && strings.Contains(reply, `"room:2":{"num_clients":1}`)
		})
		eventually(t, "both replicas", func() bool {
			_, reply := c.call(t, replica, "info", `{}`)
			return strings.Contains(reply, `"name":"replica 0"`) && strings.Contains(reply, `"name":"replica 1"`)
		})
		eventually(t, "all members", func() bool {
			_, reply := c.call(t, replica, "presence", `{"channel":"room:1"}`)
			return strings.Contains(reply, here.id) && strings.Contains(reply, there.id) && strings.Contains(reply, stays.id)
		})
	}
	c.call(t, 0, "subscribe", `{"user":"bob","channel":"room:3"}`)
	eventually(t, "bob is subscribed", func() bool {
		_, reply := c.call(t, 0, "presence_stats", `{"channel":"room:3"}`)
		return strings.Contains(reply, `"num_clients":1`)
	})
	c.call(t, 0, "unsubscribe", `{"user":"bob","channel":"room:3"}`)
	eventually(t, "bob is not", func() bool {
		_, reply := c.call(t, 0, "presence_stats", `{"channel":"room:3"}`)
		return strings.Contains(reply, `"num_clients":0`)
	})
	if _, reply := c.call(t, 0, "disconnect", fmt.Sprintf(`{"user":"alice","client":%q,"disconnect":{"code":4001,"reason":"moved"}}`, there.id)); reply != `{"result":{}}` {
		t.Fatal(reply)
	}
	if code := there.closed(t); code != 4001 {
		t.Errorf("closed with %d", code)
	}
	here.do(t, `{"id":3,"ping":{}}`)
	c.call(t, 1, "disconnect", `{"user":"alice"}`)
	if code := here.closed(t); code != 3503 {
		t.Errorf("closed with %d", code)
	}
	eventually(t, "they left", func() bool {
		_, reply := c.call(t, 0, "presence_stats", `{"channel":"room:1"}`)
		return reply == `{"result":{"num_clients":1,"num_users":1}}`
	})
	stays.do(t, `{"id":3,"ping":{}}`)
}
