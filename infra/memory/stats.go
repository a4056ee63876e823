package memory

// Stats is the memory at one moment.
type Stats struct {
	Limit     uint64  `json:"limit_bytes"`
	Used      uint64  `json:"used_bytes"` // of the container, if it has a limit, else of the process
	Available uint64  `json:"available_bytes"`
	Percent   float64 `json:"percent"`
	Process   uint64  `json:"process_bytes"`
	Reserved  int64   `json:"reserved_bytes"` // by large requests
	Level     string  `json:"level"`
	Refused   uint64  `json:"refused"` // requests and connections
	Freed     uint64  `json:"freed"`   // times that garbage was freed because memory was short
}

// Stats looks and returns the figures.
func (g *Governor) Stats() Stats {
	percent := g.look()
	s := Stats{Limit: g.source.limitNow(), Used: g.used.Load(), Percent: percent, Reserved: g.reserved.Load(),
		Level: Level(g.level.Load()).String(), Refused: g.refused.Load(), Freed: g.freed.Load()}
	s.Available = s.Limit - min(s.Used, s.Limit)
	if process, err := resident(); err == nil {
		s.Process = process
	}
	return s
}
