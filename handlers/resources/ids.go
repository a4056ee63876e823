package resources

import (
	"encoding/base32"
	"strings"

	"github.com/google/uuid"
)

// idLetters keep the order of what they encode.
var idLetters = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

const idLength = 26 // of 128 bits

// newID makes an id, of which those made later are greater: a UUID of version 7. So lists need no other index.
func newID(prefix string) string {
	id := uuid.Must(uuid.NewV7())
	return prefix + idLetters.EncodeToString(id[:])
}

// isID says whether a text is an id of the kind. What is none is asked for nowhere.
func isID(prefix, s string) bool {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok || len(rest) != idLength {
		return false
	}
	for i := range len(rest) {
		if c := rest[i]; (c < '0' || c > '9') && (c < 'a' || c > 'v') {
			return false
		}
	}
	return true
}
