package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

var operatorConfig = TokenConfig{Secret: testSecret, OperatorKey: []byte("the key of the dashboard's tokens")}

func operatorToken(user string) string { return must(operatorConfig.SignOperator(user, time.Minute)) }

func withOperators(cfg *Config) { cfg.Tokens = operatorConfig }

// Nobody but an operator gets a channel of the server's own, whoever would grant it.
func TestOperatorsChannelsAreClosed(t *testing.T) {
	t.Parallel()
	const channel = OperatorNamespace + ":figures"
	n, url := startNode(t, dbtest.New(t), `{"without_namespace":{"allow_publish_for_client":true}}`, func(cfg *Config) {
		withOperators(cfg)
		cfg.AllowAnonymous = true
	})
	anonymous := joined(t, url, "")
	anonymous.wantError(subscribeTo(channel, ""), 103)
	anonymous.wantError(subscribeTo("$"+channel, ""), 103)
	anonymous.wantError(fmt.Sprintf(`"publish":{"channel":%q,"data":1}`, channel), 103)
	user := joined(t, url, hs(joe()))
	user.wantError(subscribeTo(channel, hs(joe("channel", channel))), 103)
	user.wantError(fmt.Sprintf(`"presence":{"channel":%q}`, channel), 108)
	user.wantError(fmt.Sprintf(`"history":{"channel":%q}`, channel), 103)
	r := dialWire(t, url).wantError(connectAs(hs(joe("channels", []string{channel, "mine"}))), 0)
	if _, mine := r.Connect.Subs["mine"]; !mine || len(r.Connect.Subs) != 1 {
		t.Errorf("a token's channels: %v", r.Connect.Subs)
	}
	if err := n.Subscribe(t.Context(), "joe", "", channel, SubscribeOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := n.Subscribe(t.Context(), "joe", "", "after", SubscribeOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "what came after is there", func() bool { return n.hub.channels()["after"] == 2 })
	if n.hub.channels()[channel] != 0 || n.hub.channels()["$"+channel] != 0 || n.Watchers("figures") != 0 {
		t.Error("somebody is subscribed")
	}
	if _, err := n.Publish(t.Context(), Message{Channel: channel, Data: json.RawMessage("1")}); !errors.Is(err, errOperatorsOnly) {
		t.Errorf("publish: %v", err)
	}
	if _, err := ParseNamespaces(`{"namespaces":[{"name":"` + OperatorNamespace + `"}]}`); err == nil {
		t.Error("a configuration opens the namespace")
	}
}

// Only the operators' own key makes a token an operator's.
func TestOperatorTokens(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t)
	_, with := startNode(t, url, "", withOperators)
	_, without := startNode(t, url, "", nil)
	kid := map[string]any{"kid": operatorKid}
	for name, token := range map[string]string{
		"signed with the users' secret":  sign("HS256", []byte(testSecret), kid, joe()),
		"without the kid":                sign("HS256", operatorConfig.OperatorKey, nil, joe()),
		"of another algorithm, unsigned": strings.Replace(operatorToken("joe"), strings.Split(operatorToken("joe"), ".")[0], "eyJhbGciOiJub25lIiwia2lkIjoiZm9yZ2V3aXJlLW9wZXJhdG9yIn0", 1),
	} {
		w := dialWire(t, with)
		w.send(connectAs(token))
		if _, code := w.read(); code != 3500 {
			t.Errorf("%s: %d", name, code)
		}
	}
	w := dialWire(t, without)
	w.send(connectAs(operatorToken("op")))
	w.wantClosed(3500)

	op := joined(t, with, operatorToken("op"))
	op.send(fmt.Sprintf(`"refresh":{"token":%q}`, hs(map[string]any{"sub": "op"})))
	op.wantClosed(3500)
	user := joined(t, with, hs(map[string]any{"sub": "op"}))
	user.send(fmt.Sprintf(`"refresh":{"token":%q}`, operatorToken("op")))
	user.wantClosed(3500)
	user = joined(t, with, hs(joe()))
	user.wantError(subscribeTo("a", operatorToken("joe")), 103)
}

// An operator sees every channel, and nobody on it sees him.
func TestOperatorSeesUnseen(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), `{"namespaces":[{"name":"room","presence":true,"join_leave":true,"allow_subscribe_for_client":false}]}`, withOperators)
	op := joined(t, url, operatorToken("op"))
	for _, channel := range []string{"room:1", "$secret", "own#joe"} {
		op.wantError(subscribeTo(channel, ""), 0)
	}
	op.wantError(`"publish":{"channel":"room:1","data":1}`, 103)
	joined(t, url, hs(joe())).wantError(subscribeTo("room:1", hs(joe("channel", "room:1"))), 0)
	if s, err := n.PresenceStats(t.Context(), "room:1"); err != nil || s.Clients != 1 {
		t.Errorf("presence: %+v, %v", s, err)
	}
	if _, err := n.Publish(t.Context(), Message{Channel: "$secret", Data: json.RawMessage(`"told"`)}); err != nil {
		t.Fatal(err)
	}
	for {
		r, code := op.read()
		if code != 0 {
			t.Fatalf("closed with %d", code)
		}
		if r.Push != nil && r.Push.Channel == "$secret" {
			break
		}
	}
}

// What is shown reaches those who watch here, however large it is, and wakes who shows it.
func TestShow(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", withOperators)
	select {
	case <-n.Watched():
		t.Fatal("watched by nobody")
	default:
	}
	op := joined(t, url, operatorToken("op"))
	op.wantError(subscribeTo(OperatorNamespace+":figures", ""), 0)
	select {
	case <-n.Watched():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody is told")
	}
	if n.Watchers("figures") != 1 || n.Watchers("others") != 0 {
		t.Errorf("%d, %d", n.Watchers("figures"), n.Watchers("others"))
	}
	large := fmt.Sprintf("%q", strings.Repeat("x", 100<<10))
	n.Show("figures", json.RawMessage(large))
	r, _ := op.read()
	if r.Push == nil || string(r.Push.Pub.Data) != large {
		t.Errorf("got %.100v", r)
	}
	_ = op.ws.CloseNow()
	eventually(t, 10*time.Second, "nobody watches", func() bool { return n.Watchers("figures") == 0 })
}

// What was taken back ends at once, and is remembered.
func TestOperatorRevoked(t *testing.T) {
	t.Parallel()
	n, url := startNode(t, dbtest.New(t), "", withOperators)
	issued := time.Now()
	op := joined(t, url, operatorToken("op"))
	if n.Revoked("op", issued) {
		t.Error("revoked too early")
	}
	if err := n.Revoke(context.Background(), "op", issued.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	op.wantClosed(3503)
	if !n.Revoked("op", issued) || n.Revoked("another", issued) {
		t.Error("not remembered, or too much")
	}
}
