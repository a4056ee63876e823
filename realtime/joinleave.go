package realtime

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/centrifugal/protocol"
)

const (
	// leaveDelay is how long a leave is held back, in case its user comes back.
	leaveDelay = time.Second
	// maxNews bounds the joins and leaves that wait to be told.
	maxNews = 50_000
	// maxNewsWrites bounds the notifications of one statement.
	maxNewsWrites = 100
)

// news is one join or leave, as it travels to all replicas.
type news struct {
	Channel string    `json:"channel"`
	Join    bool      `json:"join,omitempty"` // else a leave
	Info    newsAbout `json:"info"`
}

type newsAbout struct {
	User     string          `json:"user,omitempty"`
	Client   string          `json:"client"`
	ConnInfo json.RawMessage `json:"conn_info,omitempty"`
	ChanInfo json.RawMessage `json:"chan_info,omitempty"`
}

func infoOf(i *protocol.ClientInfo) newsAbout {
	return newsAbout{User: i.User, Client: i.Client, ConnInfo: json.RawMessage(i.ConnInfo), ChanInfo: json.RawMessage(i.ChanInfo)}
}

// doorman keeps a client that flaps from making a storm: a leave is held back for leaveDelay, and so is a join
// of the same user on the same channel meanwhile. Then only the difference is told: nothing if the connection
// is back, one leave and one join if the user came back with another. Whoever follows the news knows at any
// time the very connections that it was told of. Guarded by the presence's mu.
type doorman struct {
	pending map[place]*absence // by channel and user; by channel and client for whoever has no user
	queue   []*absence         // in the order of their ends
}

type absence struct {
	of     place
	until  time.Time
	leaves map[string]*protocol.ClientInfo // by client: those that were told of
	joins  map[string]*protocol.ClientInfo // those that were not
}

func visitor(at place, info *protocol.ClientInfo) place {
	if info.User == "" {
		return at
	}
	return place{at.channel, "user " + info.User} // no client's id has a space
}

// join returns what is to be told at once.
func (d *doorman) join(at place, info *protocol.ClientInfo) []news {
	a := d.pending[visitor(at, info)]
	if a == nil {
		return []news{{Channel: at.channel, Join: true, Info: infoOf(info)}}
	}
	if _, back := a.leaves[at.client]; back {
		delete(a.leaves, at.client)
	} else {
		a.joins[at.client] = info
	}
	return nil
}

func (d *doorman) leave(at place, info *protocol.ClientInfo, now time.Time) {
	of := visitor(at, info)
	a := d.pending[of]
	if a == nil {
		a = &absence{of: of, until: now.Add(leaveDelay), leaves: map[string]*protocol.ClientInfo{}, joins: map[string]*protocol.ClientInfo{}}
		d.pending[of] = a
		d.queue = append(d.queue, a)
	}
	if _, untold := a.joins[at.client]; untold {
		delete(a.joins, at.client)
	} else {
		a.leaves[at.client] = info
	}
}

// due returns what is to be told of the absences that are over.
func (d *doorman) due(now time.Time) (all []news) {
	for len(d.queue) > 0 && !d.queue[0].until.After(now) {
		a := d.queue[0]
		d.queue = d.queue[1:]
		delete(d.pending, a.of)
		for _, i := range a.leaves {
			all = append(all, news{Channel: a.of.channel, Info: infoOf(i)})
		}
		for _, i := range a.joins {
			all = append(all, news{Channel: a.of.channel, Join: true, Info: infoOf(i)})
		}
	}
	return all
}

func (d *doorman) next() (time.Time, bool) {
	if len(d.queue) == 0 {
		return time.Time{}, false
	}
	return d.queue[0].until, true
}

// packNews lays news into as few notifications as it needs, in order, and returns how many each has. Info that
// does not fit into one is left out; presence has it.
func packNews(all []news) (payloads []string, counts []int) {
	var body strings.Builder
	n := 0
	flush := func() {
		if n > 0 {
			// The number makes each differ from every other: Postgres delivers equal ones of a transaction once.
			payloads = append(payloads, kindNews+strconv.Itoa(len(payloads))+"\n["+body.String()+"]")
			counts = append(counts, n)
			body.Reset()
			n = 0
		}
	}
	for _, one := range all {
		b, err := json.Marshal(one)
		if err != nil || len(b) > maxPayload-maxHeader {
			one.Info.ConnInfo, one.Info.ChanInfo = nil, nil
			b, _ = json.Marshal(one) // strings alone cannot fail
		}
		if len(b) > maxPayload-maxHeader {
			one.Info.User = "" // a user's name of 7 KB
			b, _ = json.Marshal(one)
		}
		if body.Len()+1+len(b) > maxPayload-maxHeader {
			flush()
		}
		if n > 0 {
			body.WriteByte(',')
		}
		body.Write(b)
		n++
	}
	flush()
	return payloads, counts
}

// parseNews reads what packNews wrote.
func parseNews(body string) ([]news, error) {
	_, list, _ := strings.Cut(body, "\n")
	var all []news
	if err := json.Unmarshal([]byte(list), &all); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotification, err)
	}
	for i := range all {
		if checkChannel(all[i].Channel) != "" || all[i].Info.Client == "" {
			return nil, errNotification
		}
	}
	return all, nil
}

// announce hands joins and leaves to the subscribers that asked for them.
func (h *hub) announce(all []news) {
	var bursts []*burst
	byChannel := map[string]*burst{}
	for i := range all {
		one := &all[i]
		b := byChannel[one.Channel]
		if b == nil {
			b = &burst{channel: one.Channel}
			byChannel[one.Channel] = b
			bursts = append(bursts, b)
		}
		info := &protocol.ClientInfo{User: one.Info.User, Client: one.Info.Client,
			ConnInfo: protocol.Raw(one.Info.ConnInfo), ChanInfo: protocol.Raw(one.Info.ChanInfo)}
		p := &protocol.Push{Channel: one.Channel, Leave: &protocol.Leave{Info: info}}
		if one.Join {
			p = &protocol.Push{Channel: one.Channel, Join: &protocol.Join{Info: info}}
		}
		b.news = append(b.news, push(p))
		b.size += len(info.User) + len(info.ConnInfo) + len(info.ChanInfo) + 64
	}
	if len(bursts) > 0 {
		h.tell(event{bursts: bursts})
	}
}
