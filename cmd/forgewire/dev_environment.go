package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// environmentFile lies in the data folder.
const environmentFile = "env"

// saveEnvironment leaves a file from which a shell takes what the documents' commands need. The address of the
// database changes with each start.
func (d *devCluster) saveEnvironment() error {
	if d.dir == "" {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	lines := fmt.Sprintf("# What `forgewire dev` has started: . %s\nexport DATABASE_URL=%s\nexport FORGEWIRE_API_KEY=%s\nexport FORGEWIRE_TOKEN_SECRET=%s\nexport PATH=%s:$PATH\n",
		environmentFile, quote(d.stack.Postgres.URL()), quote(orNone(d.cfg.APIKey.Reveal())), quote(orNone(d.cfg.TokenSecret.Reveal())), quote(filepath.Dir(program)))
	if err = os.WriteFile(filepath.Join(d.dir, environmentFile), []byte(lines), 0o600); err != nil {
		return fmt.Errorf("keep the environment: %w", err)
	}
	return nil
}

// quote makes one word of a value, for a shell; what needs no quotes gets none.
func quote(value string) string {
	if !strings.ContainsFunc(value, func(r rune) bool {
		return !strings.ContainsRune("./_-", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
