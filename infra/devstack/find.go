package devstack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// oldestMajor is the oldest PostgreSQL that its makers still care for.
	oldestMajor = 14
	// askTimeout bounds questions to other programs (pg_config, postgres, npm).
	askTimeout = 10 * time.Second
)

// usualFolders are where packages of the systems we know put PostgreSQL.
var usualFolders = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // PostgreSQL's packages for Red Hat
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/local/pgsql/bin",      // built from source
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// finder looks for PostgreSQL. Tests replace its parts.
type finder struct {
	installed iter.Seq[string]                                                       // folders that may hold the programs
	download  func(ctx context.Context, who *account, out *progress) (string, error) // the pinned build's folder
}

func systemFinder() finder {
	return finder{installed: installedFolders, download: downloadPinned}
}

// locate returns a folder with the server's programs that who can run: of the
// given major version, or of any that we support if major is 0.
func (f finder) locate(ctx context.Context, major int, who *account, out *progress) (string, error) {
	var seen []string
	for bindir := range f.installed {
		if !hasServer(bindir) || who.reach(filepath.Join(bindir, "postgres")) != nil {
			continue
		}
		version, err := majorOf(ctx, bindir)
		if ctx.Err() != nil {
			return "", fmt.Errorf("look for PostgreSQL: %w", ctx.Err())
		}
		if err != nil {
			continue // not for this machine
		}
		if version == major || (major == 0 && version >= oldestMajor) {
			return bindir, nil
		}
		seen = append(seen, fmt.Sprintf("%d in %s", version, bindir))
	}
	if major != 0 && major != pinnedMajor {
		return "", fmt.Errorf("%w: the data folder was made by PostgreSQL %d, which is not installed (found: %s); "+
			"install that version, or choose another folder", ErrNoPostgres, major, orNone(seen))
	}
	bindir, err := f.download(ctx, who, out)
	if err != nil {
		return "", fmt.Errorf("%w: none installed (found: %s), and the download did not work; "+
			"install PostgreSQL %d or newer: %w", ErrNoPostgres, orNone(seen), oldestMajor, err)
	}
	return bindir, nil
}

func orNone(seen []string) string {
	if len(seen) == 0 {
		return "none"
	}
	return strings.Join(seen, ", ")
}

func hasServer(bindir string) bool {
	return executable(filepath.Join(bindir, "initdb")) && executable(filepath.Join(bindir, "postgres"))
}

// installedFolders yields where PostgreSQL may be, best first; whoever finds
// what they look for stops it before it asks further.
func installedFolders(yield func(string) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		if !yield(strings.TrimSpace(string(out))) {
			return
		}
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if !yield(filepath.Dir(path)) {
			return
		}
	}
	for _, pattern := range usualFolders {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		slices.SortFunc(found, func(a, b string) int { return numberIn(b) - numberIn(a) })
		for _, bindir := range found {
			if !yield(bindir) {
				return
			}
		}
	}
}

var digits = regexp.MustCompile(`\d+`)

// numberIn returns the first number in a path, which is the version: 9 is older than 17.
func numberIn(path string) int {
	n, err := strconv.Atoi(digits.FindString(path))
	if err != nil {
		return 0
	}
	return n
}

var errVersion = errors.New("unknown version")

// majorOf asks the server program for its version: "postgres (PostgreSQL) 17.2 (…)".
func majorOf(ctx context.Context, bindir string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bindir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("ask for version: %w", err)
	}
	_, version, _ := strings.Cut(string(out), "(PostgreSQL)")
	if major := numberIn(version); major != 0 {
		return major, nil
	}
	return 0, fmt.Errorf("%w: %q", errVersion, out)
}
