package resources

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/handlers/problem"
	"forgewire/handlers/stream"
)

const (
	maxRecord   = 1 << 20    // bytes of one case
	maxCases    = 10_000_000 // of a data set
	chunkBytes  = 4 << 20    // of cases that are stored together, at most
	readWithin  = 30 * time.Second
	expectedCol = "expected"
)

var errRecordTooLarge = errors.New("a record is too large")

// importCases stores the cases of the body in chunks. Each chunk is a transaction that finds the data set as long as
// the last one has left it, so of two imports at once one is told, and one that is sent again stores nothing twice.
func importCases(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	at, err := number(query, "at")
	if err != nil {
		return err
	}
	skip, err := number(query, "skip")
	if err != nil {
		return err
	}
	d, err := c.dataset()
	if err != nil {
		return err
	}
	if err = c.match(datasetETag(d), false); err != nil { // that it still is what was read, `at` sees to
		return err
	}
	next, err := c.records()
	if err != nil {
		return err
	}
	record, eof := int64(0), false
	for !eof {
		var chunk []db.Case
		for size, read := 0, 0; len(chunk) < stream.ChunkRows && size < chunkBytes; read++ {
			if read%stream.ChunkRows == 0 { // also of those that are skipped
				c.moreTime()
			}
			one, n, err := next()
			if errors.Is(err, io.EOF) {
				eof = true
				break
			}
			if record++; err == nil && record > skip {
				chunk, size = append(chunk, one), size+n
				err = sameVariables(&d, one)
			}
			if err != nil {
				return badRecord(record, at, err)
			}
		}
		if err = c.store(&d, at, chunk); err != nil {
			return err
		}
		at = d.Cases
		if c.s.cfg.Chunk != nil {
			c.s.cfg.Chunk()
		}
	}
	c.w.Header().Set("Etag", datasetETag(d))
	return c.show(showDataset(d))
}

// moreTime lets a body take as long as it likes, if it is not too slow.
func (c *call) moreTime() {
	rc := http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(time.Now().Add(readWithin)) // where it cannot be set, the server's own holds
	_ = rc.SetWriteDeadline(time.Now().Add(2 * readWithin))
}

// sameVariables takes the variables of the first case for those of all.
func sameVariables(d *db.Dataset, one db.Case) error {
	names := slices.Sorted(maps.Keys(one.Variables))
	if d.Variables == nil {
		if len(names) > maxVariables {
			return fmt.Errorf("a case has at most %d variables", maxVariables)
		}
		for _, name := range names {
			if !isVariable(name) {
				return errors.New("the name of a variable has letters, digits and _")
			}
		}
		d.Variables = append([]string{}, names...)
	}
	if !slices.Equal(d.Variables, names) {
		return errors.New("all cases of a data set have the same variables")
	}
	return nil
}

// badRecord says what is wrong with which record, and how much was stored before it.
func badRecord(record, stored int64, err error) error {
	detail := "it is not complete or not well formed"
	var p *problem.Problem
	switch {
	case errors.As(err, &p):
		detail = p.Detail
	case errors.Is(err, errRecordTooLarge):
		detail = fmt.Sprintf("it has more than %d bytes", maxRecord)
	case errors.Unwrap(err) == nil && !errors.Is(err, io.ErrUnexpectedEOF):
		detail = err.Error() // our own
	}
	return problem.Bad("invalid_record", fmt.Sprintf("record %d", record), fmt.Sprintf("%s; the data set has %d cases now", detail, stored))
}

// store adds a chunk, if the data set has as many cases as it should.
func (c *call) store(d *db.Dataset, at int64, chunk []db.Case) error {
	if len(chunk) == 0 && d.Cases == at {
		return nil
	}
	return c.write(func(tx pgx.Tx) (forget string, err error) {
		found, err := db.LockDataset(c.ctx, tx, c.tenant, d.ID)
		if err != nil {
			return "", err
		}
		if found.Cases != at || found.Variables != nil && !slices.Equal(found.Variables, d.Variables) {
			return "", problem.New(http.StatusConflict, "wrong_position", fmt.Sprintf("the data set has %d cases: go on with at=%[1]d, and skip what it has", found.Cases))
		}
		if found.Cases+int64(len(chunk)) > maxCases {
			return "", problem.New(http.StatusConflict, "too_many_cases", fmt.Sprintf("a data set has at most %d cases", maxCases))
		}
		if len(chunk) == 0 {
			*d = found
			return "", nil
		}
		if found, err = db.AddCases(c.ctx, tx, c.tenant, found, d.Variables, chunk); err != nil {
			return "", err
		}
		*d = found
		return tagOf(c.tenant, d.ID), c.tellDataset(tx, "updated", found)
	})
}

// records returns what reads the body's next case and its size, as the body's types say.
func (c *call) records() (func() (db.Case, int, error), error) {
	var body io.Reader = c.r.Body
	switch c.r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, problem.Bad("invalid_encoding", "Content-Encoding", "the body is not gzip")
		}
		body = z
	default:
		return nil, problem.New(http.StatusUnsupportedMediaType, "unsupported_encoding", "the body may be gzip, or as it is")
	}
	kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	switch {
	case err == nil && kind == stream.NDJSON:
		return ndjson(body), nil
	case err == nil && kind == stream.CSV:
		return fromCSV(body)
	}
	return nil, problem.New(http.StatusUnsupportedMediaType, "unsupported_media_type", "the body must be application/x-ndjson or text/csv")
}

func ndjson(body io.Reader) func() (db.Case, int, error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 64<<10), maxRecord)
	return func() (db.Case, int, error) {
		for lines.Scan() {
			line := lines.Bytes()
			if len(strings.TrimSpace(string(line))) == 0 {
				continue
			}
			var one Case
			if err := unmarshal(line, &one); err != nil {
				return db.Case{}, 0, err
			}
			return db.Case{Variables: orEmpty(one.Variables), Expected: one.Expected}, len(line), nil
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return db.Case{}, 0, errRecordTooLarge
		case err != nil:
			return db.Case{}, 0, fmt.Errorf("read a line: %w", err)
		}
		return db.Case{}, 0, io.EOF
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// bounded ends with an error when more is read than one record may have. Whoever has a record resets it.
type bounded struct {
	r    io.Reader
	read int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.read > maxRecord {
		return 0, errRecordTooLarge
	}
	n, err := b.r.Read(p)
	b.read += n
	return n, err //nolint:wrapcheck // io.Reader's own
}

func fromCSV(body io.Reader) (func() (db.Case, int, error), error) {
	limit := &bounded{r: body}
	rows := csv.NewReader(limit)
	rows.ReuseRecord = true
	first, err := rows.Read()
	if err != nil {
		return nil, badRecord(0, 0, err)
	}
	columns := slices.Clone(first)
	columns[0] = strings.TrimPrefix(columns[0], "\ufeff") // which Excel writes
	if len(columns) > maxVariables+1 || len(slices.Compact(slices.Sorted(slices.Values(columns)))) != len(columns) {
		return nil, problem.Bad("invalid_record", "record 0", "the first line must have the columns' names, each once, and not too many")
	}
	return func() (db.Case, int, error) {
		limit.read = 0
		row, err := rows.Read()
		if err != nil {
			return db.Case{}, 0, err //nolint:wrapcheck // io.EOF has a meaning, and badRecord says the rest
		}
		one, size := db.Case{Variables: make(map[string]string, len(row))}, 0
		for i, text := range row {
			if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
				return db.Case{}, 0, errors.New("it is not UTF-8, or has a NUL")
			}
			if size += len(text); columns[i] == expectedCol {
				if text != "" { // as an export writes one that there is none of
					one.Expected = &text
				}
				continue
			}
			one.Variables[columns[i]] = text
		}
		return one, size, nil
	}, nil
}
