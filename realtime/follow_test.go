package realtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"forgewire/db/dbtest"
)

func publishNumbers(t *testing.T, n *Node, channel string, from, to, size int) {
	t.Helper()
	pad := make([]byte, size)
	for i := range pad {
		pad[i] = 'x'
	}
	for i := from; i < to; i++ {
		if _, err := n.Publish(context.Background(), Message{Channel: channel, Data: json.RawMessage(fmt.Sprintf(`{"n":%d,"pad":%q}`, i, pad))}); err != nil {
			t.Fatal(err)
		}
	}
}

// expectNumbers reads until the last of them, and complains about each that is not the next one.
func expectNumbers(t *testing.T, f *Follower, from, to int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for from < to {
		messages, err := f.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			var v struct{ N int }
			if err := json.Unmarshal(m.Data, &v); err != nil || v.N != from {
				t.Fatalf("%.40s, %v, want %d", m.Data, err, from)
			}
			from++
		}
	}
}

func TestFollowReadsPastAndPresentInOrder(t *testing.T) {
	a, b := twoReplicas(t, nil)
	publishNumbers(t, a.node, "llm:x", 0, 150, 10)
	f := must(b.node.Follow("llm:x", 0))
	defer f.Close()
	expectNumbers(t, f, 0, 100)
	publishNumbers(t, a.node, "other", 0, 5, 10)
	publishNumbers(t, a.node, "llm:x", 150, 160, 10)
	expectNumbers(t, f, 128, 160) // pages of 64: the second one was returned whole
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if m, err := f.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", m, err)
	}
}

func TestAFollowerThatFallsBehindReadsTheLog(t *testing.T) {
	a, b := twoReplicas(t, nil)
	f := must(b.node.Follow("llm:y", 0))
	defer f.Close()
	publishNumbers(t, a.node, "llm:y", 0, 1, 10)
	expectNumbers(t, f, 0, 1)
	publishNumbers(t, a.node, "llm:y", 1, 40, 100<<10) // 4 MB; the queue takes 1
	eventually(t, 10*time.Second, "the queue runs over", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.behind && f.size <= maxPending
	})
	expectNumbers(t, f, 1, 40)
	publishNumbers(t, a.node, "llm:y", 40, 45, 10)
	expectNumbers(t, f, 40, 45)
}

// A page of the past may end at its bound in bytes: what follows is no less past.
func TestFollowReadsALargePast(t *testing.T) {
	t.Parallel()
	a, b := twoReplicas(t, nil)
	publishNumbers(t, a.node, "llm:large", 0, 60, 100<<10) // 6 MB; a page takes 4
	f := must(b.node.Follow("llm:large", 0))
	defer f.Close()
	expectNumbers(t, f, 0, 60)
}

func TestFollowEndsWithTheNode(t *testing.T) {
	a, _ := twoReplicas(t, nil)
	f := must(a.node.Follow("llm:z", 0))
	defer f.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := f.Next(context.Background())
		ended <- err
	}()
	a.stop()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
	}
}

func TestReserve(t *testing.T) {
	n := must(ParseNamespaces(`{"without_namespace":{"allow_publish_for_client":true,"ephemeral":true}}`))
	if err := n.Reserve("llm"); err != nil || n.of("llm:x") != defaultOptions {
		t.Errorf("%v, %+v", err, n.of("llm:x"))
	}
	n = must(ParseNamespaces(`{"namespaces":[{"name":"llm","allow_subscribe_for_anonymous":false}]}`))
	if err := n.Reserve("llm"); err != nil || n.of("llm:x").AllowSubscribeForAnonymous {
		t.Errorf("%v, %+v", err, n.of("llm:x"))
	}
	for _, bad := range []string{`"ephemeral":true`, `"recovery":false`, `"allow_publish_for_client":true`, `"allow_publish_for_subscriber":true`} {
		if err := must(ParseNamespaces(`{"namespaces":[{"name":"llm",` + bad + `}]}`)).Reserve("llm"); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// What the server tells itself reaches no client, whoever would grant it; the server reads it all the same.
func TestSecludedChannelsAreTheServersAlone(t *testing.T) {
	t.Parallel()
	const channel = "own:x"
	r := newTestReplica(t, dbtest.New(t), func(cfg *Config) {
		cfg.Namespaces = must(ParseNamespaces(`{"without_namespace":{"allow_publish_for_client":true}}`))
		if err := cfg.Namespaces.Seclude("own"); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := r.node.Publish(t.Context(), Message{Channel: channel, Data: json.RawMessage(`{"n":0}`)}); err != nil {
		t.Fatal(err)
	}
	socket := r.webSocketURL() + "/connection/websocket"
	for _, w := range []*wire{joined(t, socket, ""), joined(t, socket, hs(joe()))} {
		for _, name := range []string{channel, "$" + channel} {
			w.wantError(subscribeTo(name, ""), 103)
			w.wantError(fmt.Sprintf(`"history":{"channel":%q,"limit":1}`, name), 103)
			w.wantError(fmt.Sprintf(`"presence":{"channel":%q}`, name), 108)
			w.wantError(fmt.Sprintf(`"publish":{"channel":%q,"data":1}`, name), 103)
		}
	}
	joined(t, socket, hs(joe())).wantError(subscribeTo(channel, hs(joe("channel", channel))), 103)
	if subs := dialWire(t, socket).wantError(connectAs(hs(joe("channels", []string{channel, "mine"}))), 0).Connect.Subs; len(subs) != 1 {
		t.Errorf("a token's channels: %v", subs)
	}
	for _, token := range []string{"", hs(joe())} {
		openStream(t, "GET", r.url("/events/"+channel), "", "Authorization", "Bearer "+token).status(http.StatusForbidden)
	}
	f := must(r.node.Follow(channel, 0))
	defer f.Close()
	expectNumbers(t, f, 0, 1)
	for _, bad := range []string{"own", OperatorNamespace} {
		if err := must(ParseNamespaces(`{"namespaces":[{"name":"own"}]}`)).Seclude(bad); err == nil {
			t.Errorf("%s is open to a configuration", bad)
		}
	}
}
