package access

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"forgewire/db"
)

// maxRunID bounds the id in a cursor and in a path.
const maxRunID = 64

// encodeCursor writes the place of a run in the list. It names nothing that its reader does not know, and gives no
// right: each page is read of the caller's own tenant.
func encodeCursor(r db.Run) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(r.Started.UnixMicro(), 10) + " " + r.ID))
}

// decodeCursor reads what encodeCursor wrote.
func decodeCursor(text string) (db.RunCursor, bool) {
	if len(text) > 2*maxRunID {
		return db.RunCursor{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return db.RunCursor{}, false
	}
	micros, id, ok := strings.Cut(string(b), " ")
	n, err := strconv.ParseInt(micros, 10, 64)
	if !ok || err != nil || n < 0 || n > maxMicros || !isRunID(id) {
		return db.RunCursor{}, false
	}
	return db.RunCursor{Started: time.UnixMicro(n), ID: id}, true
}

// maxMicros is in the year 9999: later moments Postgres knows, but not RFC 3339.
const maxMicros = 253402300799_999999

func isRunID(id string) bool {
	rest, ok := strings.CutPrefix(id, "run_")
	return ok && rest != "" && len(id) <= maxRunID && isLetters(rest)
}
