package realtime

import (
	"math/big"
	"slices"
	"strings"

	"github.com/centrifugal/protocol"
)

// Bounds of a filter of tags: each publication is compared with each different one of a channel.
const (
	maxFilterBytes = 4 << 10
	maxFilterNodes = 64
	maxFilterDepth = 8
)

// filter lets through the publications whose tags match what the client asked for.
type filter struct {
	root *filterNode
	key  string // equal for equal filters
}

type filterNode struct {
	match func(tags map[string]string) bool
}

// newFilter checks a filter and makes it independent of the buffer that it was read into.
func newFilter(n *protocol.FilterNode) (*filter, error) {
	encoded, err := n.MarshalCF()
	if err != nil {
		return nil, ErrBadRequest.With("the filter cannot be read")
	}
	if len(encoded) > maxFilterBytes {
		return nil, ErrLimitExceeded.With("the filter is too large")
	}
	own := &protocol.FilterNode{}
	if err := own.UnmarshalCF(encoded); err != nil {
		return nil, ErrBadRequest.With("the filter cannot be read")
	}
	left := maxFilterNodes
	root, err := compileFilter(own, maxFilterDepth, &left)
	if err != nil {
		return nil, err
	}
	return &filter{root: root, key: string(encoded)}, nil
}

func (f *filter) match(tags map[string]string) bool { return f.root.match(tags) }

func compileFilter(n *protocol.FilterNode, depth int, left *int) (*filterNode, error) {
	if *left--; depth == 0 || *left < 0 {
		return nil, ErrLimitExceeded.With("the filter has too many nodes")
	}
	if n == nil {
		return nil, ErrBadRequest.With("a node of the filter is missing")
	}
	if n.Op == "" {
		match, err := comparison(n)
		return &filterNode{match}, err
	}
	nodes := make([]*filterNode, len(n.Nodes))
	for i := range n.Nodes {
		var err error
		if nodes[i], err = compileFilter(n.Nodes[i], depth-1, left); err != nil {
			return nil, err
		}
	}
	switch {
	case n.Op == "and" && len(nodes) > 0:
		return &filterNode{func(tags map[string]string) bool {
			return !slices.ContainsFunc(nodes, func(n *filterNode) bool { return !n.match(tags) })
		}}, nil
	case n.Op == "or" && len(nodes) > 0:
		return &filterNode{func(tags map[string]string) bool {
			return slices.ContainsFunc(nodes, func(n *filterNode) bool { return n.match(tags) })
		}}, nil
	case n.Op == "not" && len(nodes) == 1:
		return &filterNode{func(tags map[string]string) bool { return !nodes[0].match(tags) }}, nil
	}
	return nil, ErrBadRequest.With("the filter has an unknown op, or one without its nodes")
}

// comparison is a leaf of the filter; the protocol's comments say how each treats a tag that is missing.
func comparison(n *protocol.FilterNode) (func(tags map[string]string) bool, error) {
	key, val, vals := n.Key, n.Val, n.Vals
	set := n.Cmp == "in" || n.Cmp == "nin"
	exists := n.Cmp == "ex" || n.Cmp == "nex"
	if key == "" || set && len(vals) == 0 || !set && !exists && val == "" {
		return nil, ErrBadRequest.With("a comparison of the filter lacks its key or value")
	}
	text := func(matches func(have, want string) bool) (func(map[string]string) bool, error) {
		return func(tags map[string]string) bool { have, ok := tags[key]; return ok && matches(have, val) }, nil
	}
	switch n.Cmp {
	case "eq":
		return text(func(have, want string) bool { return have == want })
	case "neq":
		return func(tags map[string]string) bool { have, ok := tags[key]; return !ok || have != val }, nil
	case "sw":
		return text(strings.HasPrefix)
	case "ew":
		return text(strings.HasSuffix)
	case "ct":
		return text(strings.Contains)
	case "in":
		return func(tags map[string]string) bool { return slices.Contains(vals, tags[key]) }, nil
	case "nin":
		return func(tags map[string]string) bool { return !slices.Contains(vals, tags[key]) }, nil
	case "ex":
		return func(tags map[string]string) bool { _, ok := tags[key]; return ok }, nil
	case "nex":
		return func(tags map[string]string) bool { _, ok := tags[key]; return !ok }, nil
	case "lt", "lte", "gt", "gte":
		return numeric(n.Cmp, key, val), nil
	}
	return nil, ErrBadRequest.With("the filter has an unknown comparison")
}

// numeric compares decimal numbers, exactly.
func numeric(cmp, key, val string) func(tags map[string]string) bool {
	want, valid := decimal(val)
	return func(tags map[string]string) bool {
		have, ok := decimal(tags[key])
		if !ok || !valid {
			return false
		}
		c := have.Cmp(want)
		switch cmp {
		case "lt":
			return c < 0
		case "lte":
			return c <= 0
		case "gt":
			return c > 0
		default:
			return c >= 0
		}
	}
}

// decimal reads digits with a sign and a point; no exponent, which could make a few bytes a huge number.
func decimal(s string) (*big.Rat, bool) {
	if s == "" || len(s) > 64 || strings.Trim(s, "0123456789.+-") != "" {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}
