package resources

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"forgewire/handlers/problem"
)

const (
	defaultPage = 20
	maxPage     = 100
	maxQuery    = 256 // bytes of a parameter
)

// query returns the request's parameters. One that the route does not have is refused: a filter with a typo
// would show everything.
func (c *call) query() (map[string]string, error) {
	if c.r.URL.RawQuery == "" {
		return nil, nil //nolint:nilnil // no parameters, which is no error
	}
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, badParameter("query", "is not well formed")
	}
	found := make(map[string]string, len(values))
	for name, given := range values {
		v := given[0]
		switch {
		case !slices.ContainsFunc(c.route.Query, func(p Param) bool { return p.Name == name }):
			return nil, badParameter(name, "is not a parameter of this path")
		case len(given) > 1:
			return nil, badParameter(name, "is given twice")
		case v == "" || len(v) > maxQuery || !utf8.ValidString(v) || strings.Contains(v, "\x00"):
			return nil, badParameter(name, "is empty, too long or not text")
		}
		found[name] = v
	}
	return found, nil
}

func badParameter(name, why string) error {
	return problem.Bad("invalid_parameter", name, name+" "+why)
}

// pageOf reads what the lists have in common: how many, and after which.
func pageOf(query map[string]string, kind string) (limit int, after string, err error) {
	limit = defaultPage
	if v, ok := query["limit"]; ok {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > maxPage {
			return 0, "", badParameter("limit", "is not a number from 1 to 100")
		}
	}
	if v, ok := query["after"]; ok {
		if after, ok = decodeCursor(kind, v); !ok {
			return 0, "", badParameter("after", "is not what a page of this list said under after")
		}
	}
	return limit, after, nil
}

// encodeCursor writes a place in a list of a kind. It names nothing that its reader does not know, and gives no
// right: each page is read of the caller's own tenant.
func encodeCursor(kind, place string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + " " + place))
}

// decodeCursor reads what encodeCursor wrote for the same kind of list.
func decodeCursor(kind, text string) (place string, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return "", false
	}
	place, ok = strings.CutPrefix(string(b), kind+" ")
	return place, ok && place != "" && isPlace(place)
}

func isPlace(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return true
}

// Page is a page of a list, in the form of OpenAI's lists.
type Page[T any] struct {
	Object  string  `json:"object"`
	Data    []T     `json:"data"`
	HasMore bool    `json:"has_more"`
	After   *string `json:"after"` // the parameter for the next page; null: this is the last
}

// list answers with the page that the query asks for, of what read finds after a place, the newest first.
func list[R, T any](c *call, kind string, read func(query map[string]string, after string, limit int) ([]R, error), place func(R) string, show func(R) T) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	limit, after, err := pageOf(query, kind)
	if err != nil {
		return err
	}
	rows, err := read(query, after, limit+1)
	if err != nil {
		return err
	}
	return c.show(newPage(rows, limit, kind, place, show))
}

// newPage makes a page of rows that were read with one more than the page holds.
func newPage[R, T any](rows []R, limit int, kind string, place func(R) string, show func(R) T) Page[T] {
	p := Page[T]{Object: "list", Data: make([]T, 0, len(rows))}
	for i, row := range rows {
		if i == limit {
			after := encodeCursor(kind, place(rows[i-1]))
			p.HasMore, p.After = true, &after
			break
		}
		p.Data = append(p.Data, show(row))
	}
	return p
}
