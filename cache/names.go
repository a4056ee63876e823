package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxKeyBytes bounds keys and tags as they travel; a longer one is hashed.
const maxKeyBytes = 256

// Names in Valkey, in notices and of local copies:
//
//	fw:{k<key>}        a value
//	fw:{k<key>}:lease  who fills it now; in a cluster it lies beside the value
//	fw:tag:<tag>       the token of a tag
//	fw:sum:<key>       a number that replicas add to
//
// None can be taken for another: values end with a brace, leases do not. The k
// keeps the braces from being empty, which in a cluster would count as none.
const (
	valuePrefix = "fw:{k"
	valueSuffix = "}"
	leaseSuffix = ":lease"
	tagPrefix   = "fw:tag:"
	sumPrefix   = "fw:sum:"
)

func valueName(key string) string { return valuePrefix + short(key) + valueSuffix }
func tagName(tag string) string   { return tagPrefix + short(tag) }
func sumName(key string) string   { return sumPrefix + short(key) }
func leaseName(value string) string {
	return value + leaseSuffix
}

func isTag(name string) bool { return strings.HasPrefix(name, tagPrefix) }

// short hashes what is too long, and leaves the rest readable.
func short(key string) string {
	if len(key) <= maxKeyBytes {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func valueNames(keys []string) []string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = valueName(key)
	}
	return names
}

func tagNames(tags []string) []string {
	if len(tags) == 0 {
		return nil
	}
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = tagName(tag)
	}
	return names
}
