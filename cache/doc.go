// Package cache keeps values that may be lost: in Valkey with local copies, or
// without Valkey in this process alone.
package cache
