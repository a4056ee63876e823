package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
)

// A key reads fw_ID_SECRET. The id finds the row and may be shown to anybody; the secret is 256 random bits.
const (
	keyPrefix    = "fw_"
	idLength     = 16 // 80 bits
	secretLength = 52 // 256 bits
	keyLength    = len(keyPrefix) + idLength + 1 + secretLength
)

// letters are what both parts are written in: nothing in it needs quoting anywhere, and a double click takes all.
var letters = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewKey makes a key. What is stored is the hash: a plain SHA-256, not a slow hash as for passwords, which is
// made for secrets that can be guessed. Nobody guesses 256 random bits, however fast he may try.
func NewKey() (id, key string, hash []byte) {
	id = random(10)
	key = keyPrefix + id + "_" + random(32)
	sum := sha256.Sum256([]byte(key))
	return id, key, sum[:]
}

func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // it never fails: the program ends instead
	return letters.EncodeToString(b)
}

// keyID returns the id in a text that has the form of a key.
func keyID(key string) (id string, ok bool) {
	if len(key) != keyLength || !strings.HasPrefix(key, keyPrefix) || key[len(keyPrefix)+idLength] != '_' {
		return "", false
	}
	id, secret := key[len(keyPrefix):len(keyPrefix)+idLength], key[keyLength-secretLength:]
	return id, isLetters(id) && isLetters(secret)
}

func isLetters(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// CheckID says whether a text is the id of a key, and if not, why.
func CheckID(id string) error {
	if len(id) != idLength || !isLetters(id) {
		return fmt.Errorf("the id of a key is %d letters a-z and digits 2-7: what stands between the first two _ of the key", idLength)
	}
	return nil
}
