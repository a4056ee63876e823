package realtime

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Bounds of a survey.
const (
	surveyTimeout     = 2 * time.Second
	maxQuestions      = 64      // that wait to be answered; more are not, and their askers time out
	maxSurveyChannels = 100_000 // of one answer, and of all answers together
	maxAnswerPart     = 7000    // bytes of an answer's part, so that it fits into a notification
)

// A question goes to all replicas, and each that holds a lease answers it.
type question struct {
	ID      string `json:"id"`
	What    string `json:"what"` // askInfo or askChannels
	Pattern string `json:"pattern,omitempty"`
}

const (
	askInfo     = "info"
	askChannels = "channels"
	askGather   = "gather" // see gather.go
)

// A surveyAnswer comes in parts, the last of which says so.
type surveyAnswer struct {
	ID       string         `json:"id"` // of the question
	From     string         `json:"from"`
	Part     int            `json:"part"` // also makes each differ: Postgres delivers equal ones of a transaction once
	Last     bool           `json:"last,omitempty"`
	Info     *NodeInfo      `json:"info,omitempty"`
	Channels map[string]int `json:"channels,omitempty"`
	TooMany  bool           `json:"too_many,omitempty"`
	Gathered []byte         `json:"gathered,omitempty"`
}

// surveys are the questions under way: those of ours, and those of others that wait for our answer.
type surveys struct {
	asked chan question

	mu   sync.Mutex
	open map[string]*survey // guarded by mu
}

// survey gathers the answers to one question. Guarded by the surveys' mu until done is closed.
type survey struct {
	awaited  map[string]string // the replicas that have not answered in full: id to name
	infos    []NodeInfo
	channels map[string]int
	tooMany  bool
	gathered gathered
	done     chan struct{}
}

func newSurveys() *surveys {
	return &surveys{asked: make(chan question, maxQuestions), open: map[string]*survey{}}
}

// survey asks every replica that holds a lease, and this one. It returns when all have answered, or after
// surveyTimeout with what there is: a replica that died is known as dead only when its lease ends.
func (n *Node) survey(ctx context.Context, q question) (*survey, error) {
	q.ID = uuid.NewString()
	s := &survey{channels: map[string]int{}, done: make(chan struct{})}
	mine := n.answer(q)
	mine.Last = true
	s.add(&mine)
	var err error
	if s.awaited, err = n.otherReplicas(ctx); err != nil {
		return nil, err
	}
	if len(s.awaited) == 0 && q.What != askGather {
		return s, nil
	}
	n.surveys.mu.Lock()
	n.surveys.open[q.ID] = s
	if len(s.awaited) == 0 {
		close(s.done)
	}
	n.surveys.mu.Unlock()
	defer func() {
		n.surveys.mu.Lock()
		defer n.surveys.mu.Unlock()
		delete(n.surveys.open, q.ID)
	}()
	if err = n.tell(ctx, control{Op: opAsk, Question: &q}); err != nil {
		return nil, err
	}
	if q.What == askGather {
		return s, n.gatherAnswers(ctx, q.ID, s)
	}
	late := time.NewTimer(surveyTimeout)
	defer late.Stop()
	select {
	case <-s.done:
		return s, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the replicas' answers: %w", ctx.Err())
	case <-late.C:
	}
	n.surveys.mu.Lock()
	defer n.surveys.mu.Unlock()
	delete(n.surveys.open, q.ID) // nobody adds to it any more
	for id, name := range s.awaited {
		n.logger.Warn("a replica did not answer in time, the result is without it", "replica_id", id, "replica_name", name)
	}
	return s, nil
}

func (n *Node) otherReplicas(ctx context.Context) (map[string]string, error) {
	rows, err := n.cfg.Pool.Query(ctx, `SELECT id, name FROM forgewire.replicas
		WHERE expires > clock_timestamp() AND NOT retired AND id <> $1`, n.id)
	if err != nil {
		return nil, fmt.Errorf("list the replicas: %w", err)
	}
	others := map[string]string{}
	var id, name string
	if _, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error { others[id] = name; return nil }); err != nil {
		return nil, fmt.Errorf("list the replicas: %w", err)
	}
	return others, nil
}

// add takes one part of an answer in.
func (s *survey) add(a *surveyAnswer) {
	s.tooMany = s.tooMany || a.TooMany
	s.gathered.add(a)
	if a.Info != nil {
		s.infos = append(s.infos, *a.Info)
	}
	for c, clients := range a.Channels {
		if _, known := s.channels[c]; !known && len(s.channels) >= maxSurveyChannels {
			s.tooMany = true
			return
		}
		s.channels[c] += clients
	}
}

// answered takes a part of an answer that arrived to a question of ours, or ignores it.
func (s *surveys) answered(a *surveyAnswer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.open[a.ID]
	if o == nil {
		return
	}
	_, awaited := o.awaited[a.From]
	if !awaited && a.Gathered == nil {
		return
	}
	o.add(a)
	if a.Last && awaited {
		if delete(o.awaited, a.From); len(o.awaited) == 0 {
			close(o.done)
		}
	}
}

// heard queues a question that another replica asks. A replica without a lease has nothing to tell, and
// nobody waits for it.
func (n *Node) heard(q question) {
	n.surveys.mu.Lock()
	_, ours := n.surveys.open[q.ID]
	n.surveys.mu.Unlock()
	if ours || q.What != askGather && !n.presence.leased.Load() {
		return
	}
	select {
	case n.surveys.asked <- q:
	default:
		n.logger.Warn("a replica's question was not answered: too many wait")
	}
}

// answerSurveys answers what other replicas ask until ctx ends.
func (n *Node) answerSurveys(ctx context.Context) error {
	for {
		select {
		case q := <-n.surveys.asked:
			if err := n.sendAnswer(ctx, n.answer(q)); err != nil && ctx.Err() == nil {
				n.logger.Warn("a replica's question could not be answered", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// answer is what this replica has to say.
func (n *Node) answer(q question) surveyAnswer {
	a := surveyAnswer{ID: q.ID, From: n.id}
	switch q.What {
	case askInfo:
		info := n.Info()
		a.Info = &info
	case askGather:
		a.Gathered = n.gatherMine()
	case askChannels:
		a.Channels = map[string]int{}
		for name, subs := range n.hub.channels() {
			if ok, _ := path.Match(q.Pattern, name); q.Pattern != "" && !ok {
				continue
			}
			if len(a.Channels) == maxSurveyChannels {
				a.TooMany = true
				break
			}
			a.Channels[name] = subs
		}
	}
	return a
}

// sendAnswer sends an answer in as many notifications as it needs, in one transaction.
func (n *Node) sendAnswer(ctx context.Context, whole surveyAnswer) error {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	var payloads []string
	for _, part := range whole.split() {
		b, err := json.Marshal(control{Op: opAnswer, Answer: &part})
		if err != nil {
			return fmt.Errorf("encode an answer: %w", err)
		}
		payloads = append(payloads, kindControl+string(b))
	}
	if _, err := n.cfg.Pool.Exec(ctx, "SELECT count(pg_notify($1, p)) FROM unnest($2::text[]) AS p", notifyLog, payloads); err != nil {
		return fmt.Errorf("send an answer: %w", err)
	}
	return nil
}

func (a surveyAnswer) split() []surveyAnswer {
	if a.Gathered != nil {
		return a.splitGathered()
	}
	part := surveyAnswer{ID: a.ID, From: a.From, Info: a.Info, TooMany: a.TooMany, Channels: map[string]int{}}
	var parts []surveyAnswer
	size := 0
	for name, subs := range a.Channels {
		b, _ := json.Marshal(name) // a string cannot fail, but it may grow
		cost := len(b) + 12
		if size += cost; size > maxAnswerPart {
			parts = append(parts, part)
			part = surveyAnswer{ID: a.ID, From: a.From, Part: len(parts), Channels: map[string]int{}}
			size = cost
		}
		part.Channels[name] = subs
	}
	part.Last = true
	return append(parts, part)
}

// Replicas describes this replica and every other that has clients.
func (n *Node) Replicas(ctx context.Context) ([]NodeInfo, error) {
	s, err := n.survey(ctx, question{What: askInfo})
	if err != nil {
		return nil, err
	}
	return s.infos, nil
}

// Channels counts the subscribers of each channel on all replicas. A pattern is as path.Match has them;
// "" is for all.
func (n *Node) Channels(ctx context.Context, pattern string) (map[string]int, error) {
	if _, err := path.Match(pattern, ""); err != nil || len(pattern) > MaxChannelLength {
		return nil, ErrBadRequest.With("pattern is not valid")
	}
	s, err := n.survey(ctx, question{What: askChannels, Pattern: pattern})
	if err != nil {
		return nil, err
	}
	if s.tooMany {
		return nil, ErrLimitExceeded.With("too many channels to list, give a pattern that fewer match")
	}
	return s.channels, nil
}
