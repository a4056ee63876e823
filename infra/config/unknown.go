package config

import (
	"regexp"
	"slices"
	"strings"
)

const prefix = "FORGEWIRE_"

// serviceLink matches what Kubernetes puts into every container of a namespace
// that has a Service named forgewire or forgewire-something: host and ports of
// that Service. They are nobody's typos.
var serviceLink = regexp.MustCompile(`^FORGEWIRE(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// unknown finds variables that are meant for us but that we do not know. Their
// values are not shown: the typo may be in the name of a secret.
func unknown(vars []Variable, given map[string]string) Mistakes {
	var known []string
	for _, v := range vars {
		names := append([]string{v.Name}, v.Aliases...)
		known = append(known, names...)
		if v.isSecret() {
			for _, name := range names {
				known = append(known, name+fileSuffix)
			}
		}
	}
	var mistakes Mistakes
	for name, value := range given {
		if !strings.HasPrefix(strings.ToUpper(name), prefix) || slices.Contains(known, name) || isServiceLink(name, value) {
			continue
		}
		problem := "is not a variable of Forgewire"
		if near := nearest(name, known); near != "" {
			problem += "; did you mean " + near + "?"
		}
		mistakes = append(mistakes, Mistake{Variable: name, Problem: problem})
	}
	slices.SortFunc(mistakes, func(a, b Mistake) int { return strings.Compare(a.Variable, b.Variable) })
	return mistakes
}

func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// nearest returns the known name that is most like name, or "" where none is
// close. What comes after the prefix is compared, so FORGEWIRE_PORT is near
// PORT and not near every name that shares the prefix.
func nearest(name string, known []string) string {
	bare := strings.TrimPrefix(strings.ToUpper(name), prefix)
	best, bestDistance := "", max(1, len(bare)/3)+1
	for _, k := range known {
		if d := distance(bare, strings.TrimPrefix(k, prefix)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour (Damerau and Levenshtein's, restricted).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
