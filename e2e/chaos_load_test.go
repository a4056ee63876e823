package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"forgewire/infra/fakellm"
)

// tally is what the load did and saw, over the whole run.
type tally struct {
	published, publishFailed, retried atomic.Int64
	inserted                          atomic.Int64
	checked, tellings, gone           atomic.Int64
	answered, answerFailed, hits      atomic.Int64
	streamed, resumed                 atomic.Int64
	written, writeFailed              atomic.Int64
	versions, read                    atomic.Int64
	refused, intruderFailed           atomic.Int64
}

// chaosLoad is everybody who works while things break.
type chaosLoad struct {
	w      *chaos
	keys   map[string]string // tenant: API key
	cancel context.CancelFunc
	done   sync.WaitGroup
	sql    []*sqlWriter
	round  int
	speed  float64 // how many times the usual load

	mu      sync.Mutex
	nonces  map[string]string       // of an answer: the tenant that got it
	prompts map[string]*chaosPrompt // by id
}

// chaosPrompt is a prompt whose making was acknowledged.
type chaosPrompt struct {
	tenant    string
	templates map[int32]string // by version, as acknowledged
	risky     bool             // something of it was acknowledged while an accident could lose it
}

var chaosTenants = []string{"acme", "umbrella"}

// How much the load does: each worker once in so long, on average.
const (
	publishEvery = 40 * time.Millisecond
	insertEvery  = 50 * time.Millisecond
	askEvery     = 150 * time.Millisecond
	writeEvery   = 250 * time.Millisecond
	intrudeEvery = 500 * time.Millisecond
	// patience is how long a client waits for an answer.
	patience = 10 * time.Second
)

func newChaosLoad(w *chaos) *chaosLoad {
	l := &chaosLoad{w: w, speed: 1, keys: map[string]string{}, nonces: map[string]string{}, prompts: map[string]*chaosPrompt{}}
	for _, tenant := range chaosTenants {
		out, errs, code := w.command("", "key", "create", tenant)
		if code != 0 {
			w.t.Fatalf("make a key: %s", errs)
		}
		l.keys[tenant] = strings.TrimSpace(out)
	}
	w.t.Cleanup(l.stop)
	return l
}

// channels that the publishers publish on. inbox#ann is ann's alone.
var chaosChannels = []string{"room:1", "room:2", "inbox#ann", "inbox#bob"}

// start lets everybody work until stop.
func (l *chaosLoad) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.round++
	worker := 0
	run := func(every time.Duration, once func(ctx context.Context, r *rand.Rand)) {
		worker++
		r := rand.New(rand.NewPCG(l.w.seed, uint64(l.round)<<32|uint64(worker)))
		l.done.Go(func() {
			for {
				wait := time.NewTimer(time.Duration((0.5 + r.Float64()) * float64(every) / l.speed))
				select {
				case <-wait.C:
					once(ctx, r)
				case <-ctx.Done():
					wait.Stop()
					return
				}
			}
		})
	}
	for i := range l.w.front.replicas {
		run(publishEvery, func(_ context.Context, r *rand.Rand) { l.publish(i, r) })
	}
	way := l.w.fromTheApp.url(l.w.t, l.w.url)
	l.sql = nil
	for range 2 {
		writer := &sqlWriter{url: way, also: "INSERT INTO orders VALUES ($1)"}
		l.sql = append(l.sql, writer)
		run(insertEvery, func(ctx context.Context, r *rand.Rand) { writer.write(ctx, l.w.book, pick(r, chaosChannels)) })
	}
	for range 2 {
		run(askEvery, func(_ context.Context, r *rand.Rand) { l.ask(r) })
	}
	run(writeEvery, func(ctx context.Context, r *rand.Rand) { l.write(ctx, r) })
	run(intrudeEvery, func(_ context.Context, r *rand.Rand) { l.intrude(r) })
}

// stop waits for the last answers.
func (l *chaosLoad) stop() {
	if l.cancel != nil {
		l.cancel()
		l.done.Wait()
	}
	for _, s := range l.sql {
		s.close()
	}
	l.sql = nil
}

// publish publishes one message over a replica; every fourth is tried until it is acknowledged, by any replica, and
// must be one message all the same.
func (l *chaosLoad) publish(at int, r *rand.Rand) {
	w := l.w
	id, channel := w.book.id("http"), pick(r, chaosChannels)
	request := map[string]any{"channel": channel, "data": body(id)}
	tries := 1
	if r.IntN(4) == 0 {
		request["idempotency_key"], tries = id, 4
	}
	begin := time.Now()
	var p position
	var err error
	for try := range tries {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = w.front.replicas[(at+try)%chaosReplicas].call(ctx, "publish", request, &p)
		cancel()
		if err == nil {
			break
		}
		if try > 0 {
			w.tally.retried.Add(1)
		}
	}
	w.book.note(channel, id, p.Offset, err, time.Since(begin))
	count(err, &w.tally.published, &w.tally.publishFailed)
}

func count(err error, good, bad *atomic.Int64) {
	if err == nil {
		good.Add(1)
	} else {
		bad.Add(1)
	}
}

// ask asks the model something that others ask too, as one of two tenants who must never see each other's answers.
func (l *chaosLoad) ask(r *rand.Rand) {
	tenant, at, stream := pick(r, chaosTenants), r.IntN(chaosReplicas), r.IntN(2) == 0
	question := fmt.Sprint("round ", l.round, " question ", r.IntN(60))
	text, status, err := l.answer(tenant, at, question, stream)
	count(err, &l.w.tally.answered, &l.w.tally.answerFailed)
	if err != nil {
		return // it says so, and that is allowed while something is broken
	}
	if stream {
		l.w.tally.streamed.Add(1)
	}
	if status == "hit" {
		l.w.tally.hits.Add(1)
	}
	l.judge(tenant, question, text)
}

// judge checks an answer that claims to be whole.
func (l *chaosLoad) judge(tenant, question, text string) {
	words := strings.Fields(text)
	if len(words) != chaosModel.Tokens+1 || words[0] != fakellm.Mark(question) {
		l.w.wrongly("%s asked %q and got %.200q", tenant, question, text)
		return
	}
	for i, word := range words[2:] {
		if word != fmt.Sprint(i+1) {
			l.w.wrongly("%s asked %q and got tokens lost, doubled or out of order: %.200q", tenant, question, text)
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if of, known := l.nonces[words[1]]; known && of != tenant {
		l.w.wrongly("%s got an answer that was made for %s", tenant, of)
	}
	l.nonces[words[1]] = tenant
}

var errNotWhole = errors.New("the answer is not whole")

// answer asks and returns the text of a whole answer. A stream that breaks off is gone on with at another replica.
func (l *chaosLoad) answer(tenant string, at int, question string, stream bool) (text, status string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	front := &llmCluster{cluster: l.w.front}
	res, err := front.send(ctx, at, "/chat/completions", asking("m", question, object{"stream": stream}), "Authorization", "Bearer "+l.keys[tenant])
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusUnauthorized {
		l.w.wrongly("%s's key was refused", tenant)
	}
	if res.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("status %d", res.StatusCode)
	}
	status = cacheStatus(res.Header)
	b, err := io.ReadAll(res.Body)
	if !stream {
		if err != nil {
			return "", "", err
		}
		return contentOf(l.w.t, b), status, nil
	}
	text, last, whole := streamedText(b)
	if id := res.Header.Get("Forgewire-Id"); !whole && id != "" && last != "" {
		more, err := l.resume(tenant, (at+1)%chaosReplicas, id, last)
		if err != nil {
			return "", "", err
		}
		l.w.tally.resumed.Add(1)
		return text + more, status, nil
	}
	if !whole {
		return "", "", errNotWhole
	}
	return text, status, nil
}

// resume goes on with an answer after an event.
func (l *chaosLoad) resume(tenant string, at int, id, after string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u := fmt.Sprintf("http://%s/v1/responses/%s?stream=true&starting_after=%s", l.w.front.replicas[at].addr, id, after)
	b, status, err := l.request(ctx, tenant, http.MethodGet, u, nil)
	if err != nil || status != http.StatusOK {
		return "", fmt.Errorf("go on with an answer: %d, %w", status, errors.Join(err, errNotWhole))
	}
	text, _, whole := streamedText(b)
	if !whole {
		return "", errNotWhole
	}
	return text, nil
}

// streamedText reads the events of a chat that was streamed: its text, the last whole event's id, and whether the
// stream came to its end without an error in it.
func streamedText(b []byte) (text, last string, whole bool) {
	events, id := strings.Split(string(b), "\n\n"), ""
	for _, e := range events[:len(events)-1] { // what follows the last empty line is no whole event
		data := ""
		for line := range strings.Lines(e) {
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch field {
			case "id":
				id = value
			case "data":
				data = value
			}
		}
		if data == "[DONE]" {
			return text, id, true
		}
		var v struct {
			Error   json.RawMessage
			Choices []struct{ Delta struct{ Content string } }
		}
		if data == "" {
			continue
		}
		if json.Unmarshal([]byte(data), &v) != nil || len(v.Error) > 0 && string(v.Error) != "null" {
			return "", "", false // told that it failed: there is nothing to go on with
		}
		for _, c := range v.Choices {
			text += c.Delta.Content
		}
		last = id
	}
	return text, last, false
}

// request is one request to /v1 by a tenant.
func (l *chaosLoad) request(ctx context.Context, tenant, method, u string, b []byte, headers ...string) ([]byte, int, error) {
	req, err := http.NewRequestWithContext(ctx, method, u, strings.NewReader(string(b)))
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Authorization", "Bearer "+l.keys[tenant])
	if len(b) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := apiClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	return reply, res.StatusCode, err
}

// intrude tries to get at what is ann's: as bob, and as nobody. It must be refused whatever is broken.
func (l *chaosLoad) intrude(r *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	token := ""
	if r.IntN(2) == 0 {
		token = sign(l.w.t, tokenSecret, "bob", time.Hour)
	}
	if !l.intrudeWith(ctx, r.IntN(chaosReplicas), token) {
		l.w.tally.intruderFailed.Add(1)
	}
}

// intrudeWith returns whether it got an answer at all.
func (l *chaosLoad) intrudeWith(ctx context.Context, at int, token string) bool {
	conn, _, err := websocket.Dial(ctx, "ws://"+l.w.front.replicas[at].addr+"/connection/websocket", nil) //nolint:bodyclose // the library closes it
	if err != nil {
		return false
	}
	defer func() { _ = conn.CloseNow() }() // it may be gone
	say := func(command string) error { return conn.Write(ctx, websocket.MessageText, []byte(command)) }
	if say(fmt.Sprintf(`{"id":1,"connect":{"token":%q}}`, token)) != nil ||
		say(`{"id":2,"subscribe":{"channel":"inbox#ann"}}`) != nil || say(`{"id":3,"history":{"channel":"inbox#ann","limit":10}}`) != nil {
		return false
	}
	refusals := 0
	for refusals < 2 {
		_, frame, err := conn.Read(ctx)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(frame)) {
			var re reply
			if err = json.Unmarshal([]byte(line), &re); err != nil {
				l.w.wrongly("a reply that is not JSON: %.200q", line)
				return true
			}
			switch {
			case re.Push != nil, re.Subscribe != nil, re.History != nil:
				l.w.wrongly("an intruder got %.300q", line)
				return true
			case re.ID > 1 && re.Error != nil:
				refusals++
			}
		}
	}
	l.w.tally.refused.Add(1)
	return true
}
