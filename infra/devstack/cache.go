package devstack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// cacheFolder returns where downloads are kept: the user's cache folder, for root
// the system's (the servers' account cannot enter /root), else the temporary one.
// The folder must be ours alone to write, since we run what is in it.
func cacheFolder(who *account) (string, error) {
	var candidates []string
	if dir, err := os.UserCacheDir(); err == nil {
		candidates = append(candidates, filepath.Join(dir, "forgewire"))
	}
	if who != nil {
		candidates = append(candidates, "/var/cache/forgewire")
	}
	candidates = append(candidates,
		filepath.Join(os.TempDir(), "forgewire-cache-"+strconv.Itoa(os.Geteuid())))
	var failure error
	for _, dir := range candidates {
		err := claimCache(dir, who)
		if err == nil {
			return dir, nil
		}
		failure = errors.Join(failure, err)
	}
	return "", fmt.Errorf("no folder to keep a download in: %w", failure)
}

// claimCache makes dir if absent and checks that nobody else can put programs into it.
func claimCache(dir string, who *account) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if uid, _ := owner(info); !info.IsDir() || int(uid) != os.Geteuid() || info.Mode()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder that only we can write", dir)
	}
	if err := who.reach(filepath.Join(dir, ".")); err != nil {
		return err
	}
	// Below it the account needs to pass dir itself, too.
	if who != nil && !who.enters(info) {
		return fmt.Errorf("account %s cannot enter %s", who.name, dir)
	}
	probe, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	return os.Remove(probe)
}
