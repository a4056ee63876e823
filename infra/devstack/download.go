package devstack

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	pinnedVersion   = "17.10.0-beta.17" // of the packages; the PostgreSQL in them is 17.10
	pinnedMajor     = 17
	defaultRegistry = "https://registry.npmjs.org"

	downloadTimeout = 15 * time.Minute
	downloadLimit   = 96 << 20 // the largest archive has 49 MiB
)

// pinned holds, per platform, the package of the embedded-postgres project and
// the SHA-512 of its archive, as the registry published them with pinnedVersion.
var pinned = map[string]struct{ name, sha512 string }{
	"linux/amd64":   {"linux-x64", "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="},
	"linux/arm64":   {"linux-arm64", "mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig=="},
	"linux/arm":     {"linux-arm", "XQrRydqjgPrvvCKF1PrLvMljMbeXXT4GbB70+z7viqUWg3bgq31nGMkupa2TXHLqRnfmEhz1u3gn3xgQIphLZQ=="},
	"linux/386":     {"linux-ia32", "ck2QlYCPmmNRJotXp0cJnnB5Yn/bk89qT3cjVCxUfkS1b/56Odu9ID6zvAYFebvYeHU69UwOEbplikV4saRYWw=="},
	"linux/ppc64le": {"linux-ppc64", "+Mb0E41rvlwBhAV11eZf51rlxSHA8ancPHPFxhyljg+ZJ62QB1YryBf+rIkphpG2bnt4aJwxd1JOUk3PonlrLA=="},
	"darwin/amd64":  {"darwin-x64", "gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg=="},
	"darwin/arm64":  {"darwin-arm64", "E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ=="},
}

// downloadPinned returns the programs' folder of the pinned build, from the cache
// or the network.
func downloadPinned(ctx context.Context, who *account, out *progress) (string, error) {
	pack, ok := pinned[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("there is no build for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	cache, err := cacheFolder(who)
	if err != nil {
		return "", err
	}
	name := "postgres-" + pack.name + "-" + pinnedVersion
	home := filepath.Join(cache, name)
	bindir := filepath.Join(home, "bin")
	if hasServer(bindir) {
		return bindir, mustRun(ctx, bindir)
	}
	url := fmt.Sprintf("%s/@embedded-postgres/%s/-/%s-%s.tgz", registry(ctx), pack.name, pack.name, pinnedVersion)
	out.line("downloading PostgreSQL %s from %s", pinnedVersion, url)
	if err := install(ctx, url, pack.sha512, home); err != nil {
		return "", err
	}
	out.line("PostgreSQL is installed in %s", home)
	return bindir, mustRun(ctx, bindir)
}

// mustRun says in time, and in words, that the build is not for this system.
func mustRun(ctx context.Context, bindir string) error {
	if _, err := majorOf(ctx, bindir); err != nil {
		return fmt.Errorf("the downloaded build does not run here (on Linux it needs glibc): %w", err)
	}
	return nil
}

// install puts the archive at url into the folder home. Everything happens beside
// it, and home appears whole; who comes second finds the work done.
func install(ctx context.Context, url, checksum, home string) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(home), ".download-")
	if err != nil {
		return fmt.Errorf("make download folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	archive, err := os.Create(filepath.Join(work, "archive.tgz"))
	if err != nil {
		return fmt.Errorf("make download file: %w", err)
	}
	defer archive.Close()
	if err := fetch(ctx, url, checksum, archive); err != nil {
		return fmt.Errorf("download %s: %w", url, err)
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	unpacked := filepath.Join(work, "native")
	if err := unpack(archive, unpacked); err != nil {
		return fmt.Errorf("unpack %s: %w", url, err)
	}
	if err := os.Rename(unpacked, home); err != nil && !hasServer(filepath.Join(home, "bin")) {
		return fmt.Errorf("move PostgreSQL into place: %w", err)
	}
	return nil
}

// fetch copies url to file and fails unless its SHA-512 is checksum.
func fetch(ctx context.Context, url, checksum string, file io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Its own transport, closed at the end: a shared one keeps connections, and
	// their goroutines, that nobody needs after this.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the registry answers %s", response.Status)
	}
	sum := sha512.New()
	n, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(response.Body, downloadLimit+1))
	if err != nil {
		return err
	}
	if n > downloadLimit {
		return fmt.Errorf("%w: more than %d bytes", ErrArchive, downloadLimit)
	}
	want, err := base64.StdEncoding.DecodeString(checksum)
	if err != nil {
		return fmt.Errorf("checksum: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return fmt.Errorf("%w: sha512-%s expected", ErrChecksum, checksum)
	}
	return nil
}

// registry returns the user's npm registry: from npm's variable, from npm itself,
// or the public one. The checksum is ours, so none of them has to be trusted.
func registry(ctx context.Context) string {
	for _, entry := range os.Environ() { // npm ignores the case of its variables
		if key, value, _ := strings.Cut(entry, "="); strings.EqualFold(key, "npm_config_registry") && value != "" {
			return strings.TrimRight(value, "/")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "npm", "config", "get", "registry").Output(); err == nil {
		if url := strings.TrimSpace(string(out)); strings.HasPrefix(url, "http") {
			return strings.TrimRight(url, "/")
		}
	}
	return defaultRegistry
}
