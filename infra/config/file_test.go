package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forgewire/infra/config"
)

// write makes a file in a folder of its own and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every secret may come from a file, with or without a line's end.
func TestSecretsFromFiles(t *testing.T) {
	cfg, err := config.Load([]string{
		"DATABASE_URL_FILE=" + write(t, "postgres://app@db/app\n"),
		"DIRECT_URL_FILE=" + write(t, "postgres://app@direct/app"),
		"VALKEY_URL_FILE=" + write(t, "redis://cache:6379/0\r\n"),
		"FORGEWIRE_API_KEY_FILE=" + write(t, "0123456789abcdef\n"),
		"FORGEWIRE_TOKEN_SECRET_FILE=" + write(t, "none\n"),
		"FORGEWIRE_ALLOW_ANONYMOUS=true",
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DatabaseURL != "postgres://app@db/app" || cfg.ListenDatabaseURL != "postgres://app@direct/app" ||
		cfg.ValkeyURL != "redis://cache:6379/0" || cfg.APIKey != "0123456789abcdef" || cfg.TokenSecret != "" {
		t.Errorf("got %q %q %q %q %q", cfg.DatabaseURL.Reveal(), cfg.ListenDatabaseURL.Reveal(), cfg.ValkeyURL.Reveal(), cfg.APIKey.Reveal(), cfg.TokenSecret.Reveal())
	}
}

// One cause, one complaint, which names the file and not what is in it.
func TestSecretFileMistakes(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		set       []string
		variable  string
		complaint string
	}{
		"both set":     {[]string{"FORGEWIRE_API_KEY_FILE=" + write(t, "sesame-sesame-sesame")}, "FORGEWIRE_API_KEY_FILE", "is set, and so is FORGEWIRE_API_KEY: only one"},
		"missing":      {[]string{"FORGEWIRE_API_KEY=", "FORGEWIRE_API_KEY_FILE=" + dir + "/nowhere"}, "FORGEWIRE_API_KEY_FILE", "no such file or directory"},
		"a folder":     {[]string{"FORGEWIRE_API_KEY=", "FORGEWIRE_API_KEY_FILE=" + dir}, "FORGEWIRE_API_KEY_FILE", "is not a file"},
		"a device":     {[]string{"FORGEWIRE_API_KEY=", "FORGEWIRE_API_KEY_FILE=/dev/zero"}, "FORGEWIRE_API_KEY_FILE", "is not a file"},
		"empty":        {[]string{"DATABASE_URL=", "DATABASE_URL_FILE=" + write(t, "\n")}, "DATABASE_URL_FILE", "is empty"},
		"too large":    {[]string{"VALKEY_URL_FILE=" + write(t, strings.Repeat("sesame", 20000))}, "VALKEY_URL_FILE", "larger than 64 KiB"},
		"too short":    {[]string{"FORGEWIRE_API_KEY=", "FORGEWIRE_API_KEY_FILE=" + write(t, "sesame\n")}, "FORGEWIRE_API_KEY", `secret": is too short to be safe: 6 bytes`},
		"two lines":    {[]string{"FORGEWIRE_API_KEY=", "FORGEWIRE_API_KEY_FILE=" + write(t, "sesame-sesame-sesame\n\n")}, "FORGEWIRE_API_KEY", "no white space"},
		"no URL":       {[]string{"DATABASE_URL=", "DATABASE_URL_FILE=" + write(t, "sesame")}, "DATABASE_URL", `secret": is neither a postgres:// URL`},
		"not a secret": {[]string{"FORGEWIRE_LOG_LEVEL_FILE=" + write(t, "info")}, "FORGEWIRE_LOG_LEVEL_FILE", "is not a variable of Forgewire"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(environ(tt.set...))
			mistakes, _ := errors.AsType[config.Mistakes](err)
			if len(mistakes) != 1 || mistakes[0].Variable != tt.variable || !strings.Contains(mistakes[0].Problem, tt.complaint) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "sesame") {
				t.Errorf("the value is in %v", err)
			}
		})
	}
}
