package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// docs/sql.md has each function of the schema that is for users as the catalog has it, and names all others as ours: so a
// new function is described, or said to be nobody's business.
func TestSQLReferenceIsTheCatalogs(t *testing.T) {
	t.Parallel()
	p := readPage(t, "docs/sql.md")
	described := map[string]string{} // by name
	for _, m := range regexp.MustCompile("(?m)^`(forgewire\\.(\\w+)\\(.*\\) → .*)`$").FindAllStringSubmatch(p.text, -1) {
		described[m[2]] = m[1]
		if !p.anchors[m[2]] {
			t.Errorf("docs/sql.md has no heading for %s", m[2])
		}
	}
	ours := map[string]bool{}
	for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(p.section(t, "## Forgewire's own"), -1) {
		ours[m[1]] = true
	}
	c := dial(t, running(t).database)
	if err := execute(t, c, "CREATE ROLE docs_publisher; SELECT forgewire.allow_publish('docs_publisher')"); err != nil {
		t.Fatal(err)
	}
	rows, err := c.Query(t.Context(), `
		SELECT p.proname, format('forgewire.%s(%s) → %s', p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)),
		       has_function_privilege('docs_publisher', p.oid, 'EXECUTE') AND p.prorettype <> 'trigger'::regtype
		  FROM pg_proc p
		 WHERE p.pronamespace = 'forgewire'::regnamespace AND p.proname NOT LIKE 'river\_%'`)
	if err != nil {
		t.Fatal(err)
	}
	var name, signature string
	var publishers bool
	cast := regexp.MustCompile(`::[a-z]+(\[\])?`) // what the catalog adds to a default
	found := []string{}
	_, err = pgx.ForEachRow(rows, []any{&name, &signature, &publishers}, func() error {
		found = append(found, name)
		signature = cast.ReplaceAllString(signature, "")
		switch {
		case described[name] == "" && !ours[name]:
			t.Errorf("docs/sql.md says nothing of %s: describe it, or name it under Forgewire's own", signature)
		case described[name] != "" && described[name] != signature:
			t.Errorf("docs/sql.md has\n%s where the catalog has\n%s", described[name], signature)
		case described[name] != "" && ours[name]:
			t.Errorf("docs/sql.md describes %s and calls it Forgewire's own", name)
		case publishers && ours[name] && name != "template_pieces" && name != "changes_trigger": // which publish_changes calls
			t.Errorf("docs/sql.md calls %s Forgewire's own, and allow_publish gives it to everybody who publishes", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range described {
		if !slices.Contains(found, name) {
			t.Errorf("docs/sql.md describes %s, which is not there", name)
		}
	}
	for name := range ours {
		if !slices.Contains(found, name) && !strings.HasPrefix(name, "river_") {
			t.Errorf("docs/sql.md names %s, which is not there", name)
		}
	}
}
