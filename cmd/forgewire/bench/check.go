package bench

import (
	"errors"
	"fmt"
)

// ErrBroken says that the server broke its promise: a message that it acknowledged was lost, doubled or out
// of order.
var ErrBroken = errors.New("messages were lost, doubled or out of order")

// ledger follows what one subscriber receives of each channel, up to the channel's last message.
type ledger struct {
	last   []uint64 // offset, by channel
	sums   []uint64 // of the sequence of offsets, by channel
	counts []int    // by channel
	ended  int      // channels whose last message came
	heard  *[]heard // everything, for one subscriber; nil for the others, whose sums must be the same
}

type heard struct {
	publisher, count int
	offset           uint64
}

func newLedger(channels int, witness bool) *ledger {
	l := &ledger{last: make([]uint64, channels), sums: make([]uint64, channels), counts: make([]int, channels)}
	if witness {
		l.heard = new([]heard)
	}
	return l
}

// enter takes one message, and reports whether it is one of the load and not the end of a channel.
func (l *ledger) enter(a arrival, offset uint64) (bool, error) {
	channel := a.publisher % len(l.last)
	if a.publisher == endOfRun {
		if channel = a.count; channel >= len(l.last) {
			return false, fmt.Errorf("%w: there is no channel %d", ErrBroken, channel)
		}
	}
	if offset <= l.last[channel] {
		return false, fmt.Errorf("%w: offset %d came after %d", ErrBroken, offset, l.last[channel])
	}
	l.last[channel] = offset
	if a.publisher == endOfRun {
		l.ended++
		return false, nil
	}
	l.counts[channel]++
	l.sums[channel] = l.sums[channel]*1_099_511_628_211 + offset // order counts
	if l.heard != nil {
		*l.heard = append(*l.heard, heard{a.publisher, a.count, offset})
	}
	return true, nil
}

func (l *ledger) complete() bool { return l.ended == len(l.last) }

// check compares what every subscriber received with what was acknowledged, and returns how many messages
// were. The first ledger is the witness.
func check(publishers []*publisher, ledgers []*ledger) (acknowledged int, err error) {
	got := make([][]uint64, len(publishers))
	for i, p := range publishers {
		got[i] = make([]uint64, len(p.offsets))
	}
	for _, h := range *ledgers[0].heard {
		if h.publisher >= len(got) || h.count >= len(got[h.publisher]) {
			return 0, fmt.Errorf("%w: message %d of publisher %d, which nobody sent, came", ErrBroken, h.count, h.publisher)
		}
		if got[h.publisher][h.count] != 0 {
			return 0, fmt.Errorf("%w: message %d of publisher %d came twice", ErrBroken, h.count, h.publisher)
		}
		got[h.publisher][h.count] = h.offset
	}
	for i, p := range publishers {
		for count, offset := range p.offsets {
			if offset == 0 {
				continue // not acknowledged: it may have come or not
			}
			if got[i][count] != offset && (offset != unknownOffset || got[i][count] == 0) {
				return 0, fmt.Errorf("%w: message %d of publisher %d was acknowledged with offset %d and received with %d",
					ErrBroken, count, i, offset, got[i][count])
			}
			acknowledged++
		}
	}
	for i, l := range ledgers[1:] {
		for channel := range l.sums {
			if l.sums[channel] != ledgers[0].sums[channel] || l.counts[channel] != ledgers[0].counts[channel] {
				return 0, fmt.Errorf("%w: of channel %d, subscriber %d received %d messages and subscriber 0 %d",
					ErrBroken, channel, i+1, l.counts[channel], ledgers[0].counts[channel])
			}
		}
	}
	return acknowledged, nil
}

func (l *ledger) total() (n int) {
	for _, c := range l.counts {
		n += c
	}
	return n
}
