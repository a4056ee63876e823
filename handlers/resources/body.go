package resources

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"forgewire/handlers/problem"
	"forgewire/infra/memory"
)

const (
	maxBody  = 1 << 20 // bytes of a body that is one JSON value
	maxDepth = 32      // levels of nesting
)

// decode reads a body of one JSON object into v. It takes nothing that two readers could understand in two ways.
func (c *call) decode(v any) error {
	if kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		p := problem.New(http.StatusUnsupportedMediaType, "unsupported_media_type", "the body must be application/json")
		p.Field = "Content-Type"
		return p
	}
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return problem.New(http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body has more than %d bytes", large.Limit))
	}
	if errors.Is(err, memory.ErrShort) {
		return problem.MemoryShort
	}
	if err != nil {
		return problem.Bad("body_incomplete", "", "the body did not arrive whole")
	}
	c.raw = raw
	return unmarshal(raw, v)
}

// unmarshal reads one JSON object strictly.
func unmarshal(raw []byte, v any) error {
	if !utf8.Valid(raw) {
		return problem.Bad("invalid_utf8", "", "the body is not valid UTF-8")
	}
	if err := checkJSON(raw); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return problem.Bad("wrong_type", wrong.Field, fmt.Sprintf("a JSON %s cannot stand here", wrong.Value))
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return problem.Bad("unknown_field", strings.Trim(name, `"`), "there is no such field")
	}
	return problem.Bad("invalid_json", "", "the body is not a JSON object of this kind")
}

// checkJSON refuses what encoding/json would take: names that occur twice, deep nesting, anything behind the
// value, and what Postgres has no place for: see checkToken and halfPair. The names of the outermost object are those of our fields,
// which encoding/json finds in upper case, too.
func checkJSON(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	type level struct {
		names map[string]bool // nil in an array
		name  bool            // a name comes next
	}
	var open []level
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return problem.Bad("invalid_json", "", "the body is empty")
		}
		if err != nil {
			return problem.Bad("invalid_json", "", "the body is not valid JSON")
		}
		if err := checkToken(t); err != nil {
			return err
		}
		if n := len(open); n > 0 && open[n-1].names != nil && open[n-1].name {
			if name, ok := t.(string); ok {
				if n == 1 {
					name = strings.ToLower(name)
				}
				if open[n-1].names[name] {
					return problem.Bad("duplicate_name", name, "an object has a name twice")
				}
				open[n-1].names[name], open[n-1].name = true, false
				continue
			}
		}
		switch t {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}, name: true})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
		if len(open) > maxDepth {
			return problem.Bad("body_too_deep", "", fmt.Sprintf("the body nests deeper than %d levels", maxDepth))
		}
		if n := len(open); n > 0 && t != json.Delim('{') {
			open[n-1].name = true // what ended was a value
		} else if n == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return problem.Bad("invalid_json", "", "something follows the JSON value")
	}
	if halfPair(raw) {
		return problem.Bad("invalid_text", "", "half of a surrogate pair is no text")
	}
	return nil
}

func checkToken(t json.Token) error {
	switch t := t.(type) {
	case string:
		if strings.Contains(t, "\x00") {
			return problem.Bad("invalid_text", "", "no text may contain NUL")
		}
	case json.Number:
		if !bearable(t) {
			return problem.Bad("invalid_number", "", fmt.Sprintf("a number has at most %d digits, and no larger exponent", maxNumber))
		}
	}
	return nil
}

// halfPair says whether JSON that is valid has an escape of half a surrogate pair, which encoding/json replaces and jsonb
// refuses.
func halfPair(raw []byte) bool {
	const escape = len(`\uffff`)
	unit := func(b []byte) rune { // 0 where there is none
		if len(b) < escape || b[0] != '\\' || b[1] != 'u' {
			return 0
		}
		n, _ := strconv.ParseUint(string(b[2:escape]), 16, 16)
		return rune(n)
	}
	for at := 0; ; {
		next := bytes.IndexByte(raw[at:], '\\') // only texts have it
		if next < 0 {
			return false
		}
		at += next
		switch first := unit(raw[at:]); {
		case first == 0:
			at += len(`\n`)
		case !utf16.IsSurrogate(first):
			at += escape
		case utf16.DecodeRune(first, unit(raw[at+escape:])) == unicode.ReplacementChar:
			return true
		default:
			at += 2 * escape
		}
	}
}
