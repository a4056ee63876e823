package realtime

import "encoding/json"

// control is what one replica tells all, itself included, through NOTIFY: commands that concern connections,
// wherever they are. It is not stored; a replica that is away has no connections that the command could mean
// but those that will come back and be judged anew.
type control struct {
	Op      string `json:"op"`
	Node    string `json:"node,omitempty"` // only this replica is meant
	Session string `json:"session,omitempty"`
	Data    []byte `json:"data,omitempty"`
	Serial  uint64 `json:"serial,omitempty"`
}

const opEmulate = "emulate"

// handleControl does this replica's share. It must not block: the listener waits for it.
func (n *Node) handleControl(body []byte) {
	var c control
	if err := json.Unmarshal(body, &c); err != nil {
		n.logger.Warn("a control that no replica sent was ignored", "error", err)
		return
	}
	switch {
	case c.Op != opEmulate:
		n.logger.Debug("a control of another version was ignored", "op", c.Op)
	case c.Node == n.id:
		n.sessions.deliver(c.Session, c.Data) // one that has ended needs no command
	}
}
