package config

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const referenceFile = "../../docs/configuration.md"

const referenceHead = `# Configuration

Everything is set by environment variables. All mistakes are reported at once when a replica starts, each with an
example of a right value; a variable that begins with ` + "`FORGEWIRE_`" + ` and is not in this list is a mistake too, so a typo
cannot go unseen. An empty variable counts as one that is not set. Durations are written as ` + "`1h30m`, `10s` or `250ms`" + `.

What may hold a password or a key (marked *secret*) can stand in a file instead, as platforms mount them:
` + "`NAME_FILE`" + ` names it, such as ` + "`DATABASE_URL_FILE=/run/secrets/database-url`" + `. One line's end at its end is not part of
the secret.

<!-- The table is generated: go test ./infra/config -run TestReference -update -->

| variable | default | meaning | example |
|---|---|---|---|
`

// reference is docs/configuration.md, from the tags of Config.
func reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	cell := func(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
	for _, v := range Variables() {
		meaning := v.shownMeaning()
		if v.isSecret() {
			meaning += " (*secret*)"
		}
		def := v.shownDefault()
		if v.Default != "" {
			def = "`" + def + "`"
		}
		b.WriteString("| `" + v.Name + "` | " + cell(def) + " | " + cell(meaning) + " | `" + cell(v.Example) + "` |\n")
	}
	return b.String()
}

// docs/configuration.md says what the struct says.
func TestReference(t *testing.T) {
	want := reference()
	if *update {
		if err := os.WriteFile(referenceFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Error("docs/configuration.md is not what Config says: run go test ./infra/config -run TestReference -update")
	}
}
