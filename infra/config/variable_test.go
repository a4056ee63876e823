package config

import (
	"reflect"
	"strings"
	"testing"
)

// Each field is a variable with a meaning and an example, all bounds can be
// read, and defaults and examples are right values.
func TestEveryFieldIsDescribed(t *testing.T) {
	vars := Variables()
	if want := reflect.TypeFor[Config]().NumField(); len(vars) != want {
		t.Fatalf("%d variables for %d fields", len(vars), want)
	}
	seen := map[string]bool{}
	for _, v := range vars {
		if v.Name == "" || v.Meaning == "" || v.Example == "" || seen[v.Name] {
			t.Errorf("%s: tags are missing or double: %+v", v.field, v)
		}
		seen[v.Name] = true
		if v.Required && v.Default != "" {
			t.Errorf("%s is required and has a default", v.Name)
		}
		if v.min != "" {
			v.bound(v.min)
		}
		if v.max != "" {
			v.bound(v.max)
		}
		for _, value := range []string{v.Default, v.Example} {
			if strings.HasPrefix(value, "$(") { // for a shell
				value = strings.Repeat("x", 64)
			}
			if _, err := LoadOnly([]string{v.Name + "=" + value}); err != nil {
				t.Errorf("%s: its own default or example is wrong: %v", v.Name, err)
			}
		}
	}
}

func TestTable(t *testing.T) {
	table := Table()
	t.Log("\n" + table)
	for _, v := range Variables() {
		if !strings.Contains(table, "\n"+v.Name+" ") {
			t.Errorf("%s is not in the table", v.Name)
		}
		for _, a := range v.Aliases {
			if !strings.Contains(table, a) {
				t.Errorf("alias %s is not in the table", a)
			}
		}
		if v.Default != "" && !strings.Contains(table, v.Default) {
			t.Errorf("default of %s is not in the table", v.Name)
		}
	}
	for line := range strings.Lines(table) {
		if len(line) > tableWidth+1 || strings.HasSuffix(line, " \n") {
			t.Errorf("line %q", line)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1},
		{"kitten", "sitting", 3}, {"KYE", "KEY", 1}, {"abcd", "", 4},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d", tt.a, tt.b, got)
		}
	}
}

// No text of the environment makes the loader panic, and no secret comes out in
// the error.
func FuzzLoad(f *testing.F) {
	f.Add("postgres://u:%zz@h/db", "redis://h", "a[", "9")
	f.Add("host=db port=1 sslmode='", "unix:", "https://x", "1h")
	f.Fuzz(func(t *testing.T, database, cache, origins, number string) {
		const mark = "ses4me"
		_, err := LoadOnly([]string{
			"DATABASE_URL=" + database + mark, "VALKEY_URL=" + cache + mark, "FORGEWIRE_API_KEY=" + mark + number,
			"FORGEWIRE_ALLOWED_ORIGINS=" + origins, "PORT=" + number, "FORGEWIRE_RETENTION_AGE=" + number,
		})
		if err != nil && strings.Contains(err.Error(), mark) {
			t.Errorf("secret in %v", err)
		}
	})
}
