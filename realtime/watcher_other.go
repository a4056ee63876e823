//go:build !linux

package realtime

import (
	"context"
	"errors"
)

// watcher does not exist here: each connection has a goroutine that reads.
type watcher struct{}

func newWatcher() (*watcher, error) { return nil, errors.ErrUnsupported }

func (*watcher) run(context.Context) error { return nil }

func (*watcher) add(*conn) bool { return false }

func (*watcher) remove(*conn) {}
