// Package stream writes a table of any length as NDJSON or CSV, in constant memory: whoever has the rows gives
// them in chunks, and what a client does not take in its time ends the response. A stream that cannot go on is cut,
// so that no client takes a part for the whole.
package stream

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The types of what is written.
const (
	NDJSON = "application/x-ndjson"
	CSV    = "text/csv"
)

const (
	// ChunkRows is how many rows are read at once, at most.
	ChunkRows = 1000
	// firstRows are read first, while nobody knows how large they are.
	firstRows = 32
	// chunkBytes ends a chunk of large rows early.
	chunkBytes = 1 << 20
	// writeWithin is how long a client may take to accept a chunk. It then has to resume.
	writeWithin = 30 * time.Second
)

// Writer writes one table. Row adds to the chunk, Flush sends it.
type Writer struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	chunk  bytes.Buffer
	rows   int // in the chunk
	json   *json.Encoder
	csv    *csv.Writer // nil for NDJSON
	header []string
	sent   func()
	begun  bool
	within time.Duration // for the client to accept a chunk
}

// Type chooses what a request wants: CSV if it accepts that and not NDJSON.
func Type(r *http.Request) string {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if strings.Contains(accept, CSV) && !strings.Contains(accept, NDJSON) {
		return CSV
	}
	return NDJSON
}

// New makes a Writer. Nothing is sent before the first Flush, so that a failure can still be told by the status. After
// each chunk sent is called, if it is not nil.
func New(w http.ResponseWriter, contentType string, columns []string, sent func()) *Writer {
	s := &Writer{w: w, rc: http.NewResponseController(w), header: columns, sent: sent, within: writeWithin}
	s.json = json.NewEncoder(&s.chunk)
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Accel-Buffering", "no") // nginx
	if contentType == CSV {
		h.Set("Content-Type", CSV+"; charset=utf-8; header=present")
		s.csv = csv.NewWriter(&s.chunk)
	}
	return s
}

// IsCSV says whether rows are wanted as texts.
func (s *Writer) IsCSV() bool { return s.csv != nil }

// Row adds a row: v as JSON, or the texts. It says whether the chunk has room for another one.
func (s *Writer) Row(v any, texts []string) (room bool, err error) {
	s.rows++
	if s.csv != nil {
		if s.header != nil {
			if err = s.csv.Write(s.header); err != nil {
				return false, fmt.Errorf("write the columns: %w", err)
			}
			s.header = nil
		}
		if err = s.csv.Write(texts); err != nil {
			return false, fmt.Errorf("write a row: %w", err)
		}
		s.csv.Flush()
		return s.chunk.Len() < chunkBytes, nil
	}
	if err = s.json.Encode(v); err != nil { // which ends it with a line's end
		return false, fmt.Errorf("encode a row: %w", err)
	}
	return s.chunk.Len() < chunkBytes, nil
}

// Flush sends the chunk. It returns an error if the client has left, or takes too long.
func (s *Writer) Flush() error {
	if s.csv != nil && s.header != nil { // a table without rows has columns, too
		_ = s.csv.Write(s.header)
		s.csv.Flush()
		s.header = nil
	}
	s.begun = true
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.within)) // where it cannot be set, the server's own holds
	if _, err := s.w.Write(s.chunk.Bytes()); err != nil {
		return fmt.Errorf("send a chunk: %w", err)
	}
	s.chunk.Reset()
	if err := s.rc.Flush(); err != nil {
		return fmt.Errorf("send a chunk: %w", err)
	}
	if s.sent != nil {
		s.sent()
	}
	return nil
}

// Copy sends chunks until there are no more rows. Next reads as many rows as it is told, adds those that follow the ones that
// it has added before, and says whether there may be more. A database sends all rows that it was asked for, also those that
// have no room, so what is asked for is what had room before, up to ChunkRows. An error is returned while it can be answered;
// later the response is cut.
func (s *Writer) Copy(next func(rows int) (more bool, err error)) error {
	ask := firstRows
	for more := true; more; {
		var err error
		s.rows = 0
		if more, err = next(ask); err == nil {
			room := s.rows * chunkBytes / max(s.chunk.Len(), 1)
			ask = max(1, min(room, 2*ask, ChunkRows)) // small rows say little of the next ones
			err = s.Flush()
		}
		if err != nil && s.begun {
			panic(http.ErrAbortHandler) // net/http's own way to cut a response
		}
		if err != nil {
			return err
		}
	}
	return nil
}
