package realtime

// minPending is what a client that does not read may always have waiting.
const minPending = 64 << 10

// ShrinkBuffers sets how much may wait for a client that does not read, as a share of the usual. Clients over
// it are disconnected as slow with the next message: they resume from their positions and miss nothing.
func (n *Node) ShrinkBuffers(share float64) {
	n.pending.Store(max(minPending, int64(share*maxPending)))
}

// pendingLimit is how much may wait for one client.
func (n *Node) pendingLimit() int {
	if limit := n.pending.Load(); limit != 0 {
		return int(limit)
	}
	return maxPending
}

// full says whether one more connection, which is counted already, is one too many.
func (n *Node) full(count int64) bool {
	return count > int64(n.cfg.MaxConnections) || n.cfg.Shedding != nil && n.cfg.Shedding()
}
