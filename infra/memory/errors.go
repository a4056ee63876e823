package memory

import "errors"

// ErrShort is why a request's body cannot be read on: what it would hold could not be reserved.
var ErrShort = errors.New("memory is short")
