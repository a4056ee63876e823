package realtime

// LogStats are of one of several logs, as this replica sees it.
type LogStats struct {
	Place     int    `json:"place"` // in the set of logs; 0 is the first
	Connected bool   `json:"connected"`
	Error     string `json:"error,omitempty"` // why it is not
	Published uint64 `json:"published"`
	Received  uint64 `json:"received"`
	Waiting   int    `json:"publisher_waiting"` // publishes that wait for a flush
	Failed    uint64 `json:"flushes_failed"`
	Forwarded uint64 `json:"forwarded"` // published from SQL in the first log's database, and brought here by this replica
}

// addStrands sums up what each log has; the listeners are connected if all of them are.
func (s *Stats) addStrands(strands []*strand, forwarders []*forwarder) {
	for _, st := range strands {
		one := LogStats{Place: st.place, Published: st.publisher.stats.published.Load(), Received: st.in.arrivals.messages.Load(),
			Waiting: len(st.publisher.waiting), Failed: st.publisher.stats.failed.Load()}
		if err := st.health.why(); err != nil {
			one.Error = err.Error()
		}
		one.Connected = one.Error == ""
		s.Messages.Published += one.Published
		s.Messages.Received += one.Received
		s.Queues.PublisherWaiting += one.Waiting
		s.Listener.Connected = s.Listener.Connected && one.Connected
		if age := st.in.arrivals.age(); age >= 0 && (s.Listener.LastNotificationAge < 0 || age < s.Listener.LastNotificationAge) {
			s.Listener.LastNotificationAge = age
		}
		s.Listener.Lag.add(st.in.arrivals.lag.snapshot())
		f := st.publisher.stats.snapshot()
		s.Flushes.Failed += f.Failed
		s.Flushes.Messages.add(f.Messages)
		s.Flushes.Seconds.add(f.Seconds)
		for _, f := range forwarders {
			if f.to == st {
				one.Forwarded = f.sent.Load()
			}
		}
		if len(strands) > 1 {
			s.Logs = append(s.Logs, one)
		}
	}
}
