package e2e

import (
	"fmt"
	"slices"
	"testing"
)

// row is a message in the log.
type row struct {
	offset  uint64
	channel string
	id      string
}

// sent is a message that a publisher tried to publish.
type sent struct {
	channel string
	id      string
	acked   bool   // its publisher was told that it is in the log
	offset  uint64 // as told; 0 where the publisher is not told (SQL)
	safe    bool   // acknowledged before or after an accident that loses commits: it must be there
}

// What a subscriber saw of one channel, in order.
type sighting struct {
	kind   kind
	offset uint64 // of the message, or the position that the subscription begins at
	id     string
}

type kind int

const (
	message   kind = iota
	begun          // subscribed for the first time: nothing before the position is promised
	recovered      // subscribed again, and told that nothing is missing
	told           // subscribed again, and told that something may be missing
)

// history is one subscriber's view of one channel.
type history struct {
	subscriber string
	channel    string
	sightings  []sighting
	left       bool // it went away before the end and promises nothing about what came then
}

// evidence is all that the checker looks at.
type evidence struct {
	log       []row
	sent      []sent
	histories []history
	// wentBack says that the log lost its last messages on purpose, so that messages which were acknowledged
	// and seen may be gone. Whoever saw one must have been told.
	wentBack bool
}

const maxFindings = 20

// check compares what publishers were told and subscribers saw with the log, and returns what is wrong.
func check(e evidence) []string {
	var f findings
	byID := checkLog(&f, e)
	perChannel := map[string][]row{}
	for _, r := range e.log {
		perChannel[r.channel] = append(perChannel[r.channel], r)
	}
	for _, h := range e.histories {
		checkHistory(&f, h, perChannel[h.channel], byID, e.wentBack)
	}
	return f
}

type findings []string

func (f *findings) add(format string, args ...any) {
	if len(*f) < maxFindings {
		*f = append(*f, fmt.Sprintf(format, args...))
	}
}

// checkLog compares publishers and log, and returns the log by id.
func checkLog(f *findings, e evidence) map[string]row {
	byID := map[string]row{}
	for i, r := range e.log {
		if i > 0 && r.offset <= e.log[i-1].offset {
			f.add("the log is not in order at %d", r.offset)
		}
		if before, twice := byID[r.id]; twice {
			f.add("%s is in the log twice: %d and %d", r.id, before.offset, r.offset)
		}
		byID[r.id] = r
	}
	known := map[string]sent{}
	for _, s := range e.sent {
		known[s.id] = s
		r, there := byID[s.id]
		switch {
		case !there && s.acked && (!e.wentBack || s.safe):
			f.add("%s was acknowledged (%d) and is not in the log", s.id, s.offset)
		case there && r.channel != s.channel:
			f.add("%s was published on %s and is on %s", s.id, s.channel, r.channel)
		case there && s.acked && s.offset != 0 && r.offset != s.offset: // the API's never pass the outbox
			f.add("%s was acknowledged with %d and has %d", s.id, s.offset, r.offset)
		}
	}
	for id, r := range byID {
		if _, ok := known[id]; !ok {
			f.add("%s (%d on %s) is in the log and nobody published it", id, r.offset, r.channel)
		}
	}
	// No number may ever name two messages, also not one that is lost.
	numbers := map[uint64]string{}
	name := func(offset uint64, id string) {
		if other, taken := numbers[offset]; taken && other != id {
			f.add("number %d was given out twice, to %s and to %s", offset, other, id)
		}
		numbers[offset] = id
	}
	for _, r := range e.log {
		name(r.offset, r.id)
	}
	for _, s := range e.sent {
		if s.acked && s.offset != 0 {
			name(s.offset, s.id)
		}
	}
	for _, h := range e.histories {
		for _, s := range h.sightings {
			if s.kind == message {
				name(s.offset, s.id)
			}
		}
	}
	return byID
}

// checkHistory follows one subscriber along its channel's rows.
func checkHistory(f *findings, h history, rows []row, byID map[string]row, wentBack bool) {
	who := h.subscriber + " on " + h.channel
	after := func(offset uint64) int {
		i, _ := slices.BinarySearchFunc(rows, offset+1, func(r row, o uint64) int {
			return int(min(1, max(-1, int64(r.offset)-int64(o))))
		})
		return i
	}
	next := -1 // index of the row that must come next; -1 before the first subscription
	lost := "" // a message that it saw and that is no more, of which it has not been told
	for _, s := range h.sightings {
		switch s.kind {
		case begun:
			if next >= 0 {
				f.add("%s began anew without having been told that something may be missing", who)
			}
			next = after(s.offset)
		case told:
			next, lost = after(s.offset), ""
		case recovered:
			if next < 0 {
				f.add("%s recovered what it never had", who)
				next = after(s.offset)
			}
		case message:
			r, there := byID[s.id]
			switch {
			case wentBack && (!there || r.offset != s.offset):
				lost = s.id // with another number: it came out of the outbox once more, as another message
			case !there:
				f.add("%s saw %s (%d), which is not in the log", who, s.id, s.offset)
			case r.offset != s.offset || r.channel != h.channel:
				f.add("%s saw %s as %d, the log has it as %d on %s", who, s.id, s.offset, r.offset, r.channel)
			case lost != "":
				f.add("%s saw %s after %s, which is lost, without having been told", who, s.id, lost)
				lost = ""
			case next < 0:
				f.add("%s saw %s before it was subscribed", who, s.id)
			case next < len(rows) && rows[next].id == s.id:
				next++
			default:
				next = follow(f, who, s, rows, next)
			}
		}
	}
	if lost != "" && !h.left {
		f.add("%s saw %s, which is lost, and was never told", who, lost)
	}
	if !h.left && next < len(rows) {
		if next < 0 {
			f.add("%s never subscribed", who)
			return
		}
		f.add("%s did not see %s (%d) and %d after it", who, rows[next].id, rows[next].offset, len(rows)-next-1)
	}
}

// follow explains a message that is not the one that should come, and goes on after it.
func follow(f *findings, who string, s sighting, rows []row, next int) int {
	at := slices.IndexFunc(rows, func(r row) bool { return r.id == s.id })
	if at < next {
		f.add("%s saw %s (%d) again, or out of order", who, s.id, s.offset)
		return next
	}
	f.add("%s did not see %s (%d) and saw %s (%d) %d places later", who, rows[next].id, rows[next].offset, s.id, s.offset, at-next)
	return at + 1
}

// The checker's own tests: histories that are right, and ones that must be found wrong.
func TestChecker(t *testing.T) {
	t.Parallel()
	log := []row{{10, "a", "m1"}, {11, "b", "x1"}, {12, "a", "m2"}, {20, "a", "m3"}}
	all := []sent{{"a", "m1", true, 10, false}, {"b", "x1", true, 0, false}, {"a", "m2", true, 12, false}, {"a", "m3", false, 0, false}}
	m := func(offset uint64, id string) sighting { return sighting{message, offset, id} }
	start := sighting{kind: begun, offset: 9}
	whole := []sighting{start, m(10, "m1"), m(12, "m2"), m(20, "m3")}

	cases := []struct {
		name  string
		wrong bool
		e     evidence
	}{
		{"whole", false, evidence{log: log, sent: all, histories: []history{{"s", "a", whole, false}}}},
		{"joined later", false, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{{kind: begun, offset: 11}, m(12, "m2"), m(20, "m3")}, false}}}},
		{"resumed", false, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), {kind: recovered, offset: 12}, m(12, "m2"), m(20, "m3")}, false}}}},
		{"told of a gap", false, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), {kind: told, offset: 15}, m(20, "m3")}, false}}}},
		{"left early", false, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1")}, true}}}},
		{"failed and absent", false, evidence{log: log[:3], sent: all, histories: []history{
			{"s", "a", whole[:3], false}}}},
		{"lost and told", false, evidence{wentBack: true, log: log[:3], sent: all, histories: []history{
			{"s", "a", append(slices.Clone(whole), sighting{kind: told, offset: 12}), false}}}},
		{"lost that was safe", true, evidence{wentBack: true, log: log[:2], sent: []sent{all[0], all[1], {"a", "m2", true, 12, true}}}},
		{"lost, told, and drained again", false, evidence{wentBack: true, log: []row{{10, "a", "m1"}, {50, "a", "m2"}}, sent: []sent{all[0], {"a", "m2", true, 0, false}}, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(12, "m2"), {kind: told, offset: 12}, m(50, "m2")}, false}}}},

		{"a hole", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(20, "m3")}, false}}}},
		{"a hole at the end", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", whole[:3], false}}}},
		{"a hole at the start", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(12, "m2"), m(20, "m3")}, false}}}},
		{"a hole over a recovery", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), {kind: recovered, offset: 15}, m(20, "m3")}, false}}}},
		{"twice", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(10, "m1"), m(12, "m2"), m(20, "m3")}, false}}}},
		{"twice over a recovery", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(12, "m2"), {kind: recovered, offset: 12}, m(12, "m2"), m(20, "m3")}, false}}}},
		{"out of order", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(12, "m2"), m(10, "m1"), m(20, "m3")}, false}}}},
		{"another offset", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(13, "m2"), m(20, "m3")}, false}}}},
		{"another channel's", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(11, "x1"), m(12, "m2"), m(20, "m3")}, false}}}},
		{"invented", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(12, "m2"), m(15, "?"), m(20, "m3")}, false}}}},
		{"before it began", true, evidence{log: log, sent: all, histories: []history{{"s", "a", whole[1:], false}}}},
		{"never subscribed", true, evidence{log: log, sent: all, histories: []history{{"s", "a", nil, false}}}},
		{"began twice", true, evidence{log: log, sent: all, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), {kind: begun, offset: 15}, m(20, "m3")}, false}}}},
		{"acknowledged and absent", true, evidence{log: log[1:], sent: all}},
		{"acknowledged with another number", true, evidence{log: log, sent: []sent{
			{"a", "m1", true, 9, false}, {"b", "x1", true, 0, false}, {"a", "m2", true, 12, false}, {"a", "m3", false, 0, false}}}},
		{"in the log twice", true, evidence{log: append(slices.Clone(log), row{21, "a", "m3"}), sent: all}},
		{"on another channel", true, evidence{log: log, sent: append([]sent{{"b", "m1", true, 10, false}}, all[1:]...)}},
		{"published by nobody", true, evidence{log: log, sent: all[:3]}},
		{"lost and not told", true, evidence{wentBack: true, log: log[:3], sent: all, histories: []history{{"s", "a", whole, false}}}},
		{"lost, not told, and going on", true, evidence{wentBack: true,
			log: []row{{10, "a", "m1"}, {50, "a", "m4"}}, sent: append([]sent{{"a", "m4", true, 50, false}}, all...), histories: []history{
				{"s", "a", []sighting{start, m(10, "m1"), m(12, "m2"), m(50, "m4")}, false}}}},
		{"drained again and not told", true, evidence{wentBack: true, log: []row{{10, "a", "m1"}, {50, "a", "m2"}}, sent: []sent{all[0], {"a", "m2", true, 0, false}}, histories: []history{
			{"s", "a", []sighting{start, m(10, "m1"), m(12, "m2"), m(50, "m2")}, false}}}},
		{"a number given twice", true, evidence{wentBack: true,
			log:  []row{{10, "a", "m1"}, {12, "a", "m4"}},
			sent: append([]sent{{"a", "m4", true, 12, false}}, all...)}},
		{"a number seen twice", true, evidence{wentBack: true,
			log: []row{{10, "a", "m1"}, {12, "a", "m4"}}, sent: []sent{{"a", "m1", true, 10, false}, {"a", "m2", false, 0, false}, {"a", "m4", false, 0, false}},
			histories: []history{{"s", "a", []sighting{start, m(10, "m1"), m(12, "m2"), {kind: told, offset: 10}, m(12, "m4")}, false}}}},
	}
	for _, c := range cases {
		found := check(c.e)
		if c.wrong && len(found) == 0 {
			t.Errorf("%s: nothing was found wrong", c.name)
		}
		if !c.wrong && len(found) > 0 {
			t.Errorf("%s: %q", c.name, found)
		}
	}
}
