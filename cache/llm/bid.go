package llm

import "sync/atomic"

// A bid is an election that is held while Valkey is asked for the answer: where it has none, the flight need not
// wait for one after the other. All requests for the same share it. The flight that one of them starts takes it over;
// if none does, the last of them withdraws it.
type bid struct {
	*candidacy
	holders int // guarded by the service's mu
}

// bid stands for an election on behalf of a request, or joins who did. It returns nil where there is nothing to win by it.
func (s *Service) bid(req *request) *bid {
	if !s.odds.good() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.flights[req.key] != nil {
		return nil
	}
	b := s.bids[req.key]
	if b == nil {
		c := s.propose(req, req.key, newID())
		if c == nil {
			return nil
		}
		b = &bid{candidacy: c}
		s.bids[req.key] = b
	}
	b.holders++
	return b
}

// unbid lets go of a bid.
func (s *Service) unbid(b *bid) {
	if b == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.holders--; b.holders == 0 && s.bids[b.key] == b {
		delete(s.bids, b.key)
		s.elector.withdraw(b.candidacy)
	}
}

// odds is how often of late Valkey did not have what it was asked for: an election that is not wanted costs Postgres
// as much as one that is.
type odds struct{ hits atomic.Int64 } // of 1024, smoothed

const (
	certain = 1024
	slow    = 16
)

func (o *odds) good() bool { return o.hits.Load() <= certain/2 }

// note counts a look-up. Two at once may count as one.
func (o *odds) note(hit bool) {
	to := int64(0)
	if hit {
		to = certain
	}
	n := o.hits.Load()
	o.hits.Store(n + (to-n)/slow)
}
