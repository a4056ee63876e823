package llm

import (
	"net/http"
	"time"
)

const (
	// writeWithin is how long a client may take to accept a piece of what is written to it. It then has to resume.
	writeWithin = 30 * time.Second
	pieceBytes  = 64 << 10
	// quietFor is how long a stream may be silent before a comment says that it lives: proxies cut what says nothing for a
	// minute, and what the upstream sends for that reason ends here.
	quietFor = 15 * time.Second
)

// eventStream is the type of streams.
const eventStream = "text/event-stream; charset=utf-8"

// alive is a comment. It has no empty line of its own: some SDKs take that for an event, once they have seen an id.
const alive = ":\n"

// output is the way to one client. Each piece has time of its own, so that who reads steadily gets all of it, however
// slowly.
type output struct {
	http.ResponseWriter
	rc       *http.ResponseController
	within   time.Duration
	extended time.Time // when the time to write was last extended
}

func (s *Service) output(w http.ResponseWriter) *output {
	return &output{ResponseWriter: w, rc: http.NewResponseController(w), within: s.writeWithin}
}

func (o *output) Write(b []byte) (n int, err error) {
	for {
		o.extend()
		k, err := o.ResponseWriter.Write(b[n:min(len(b), n+pieceBytes)])
		if n += k; err != nil || n == len(b) {
			return n, err
		}
	}
}

func (o *output) extend() {
	if now := time.Now(); now.Sub(o.extended) > o.within/30 {
		_ = o.rc.SetWriteDeadline(now.Add(o.within)) // where it cannot be set, the server's own holds
		o.extended = now
	}
}

func (o *output) flush() error {
	o.extend()
	return o.rc.Flush()
}
