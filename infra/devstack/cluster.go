package devstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	versionFile = "PG_VERSION" // what makes a folder a cluster
	staging     = ".initdb"    // where a cluster is built
)

// clusterVersion returns the major version that made the cluster in dir, 0 if
// there is none.
func clusterVersion(dir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dir, versionFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read cluster version: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read cluster version: %s in %s is damaged: %w", versionFile, dir, err)
	}
	return major, nil
}

// createCluster runs initdb in a folder inside dir and moves the result up, the
// version file last. So a cluster is either whole or not there, also when we are
// killed half-way; what such a run has left is removed by the next one.
func createCluster(ctx context.Context, bindir, dir string, who *account, out *progress) (err error) {
	if err := makeRoom(dir, who); err != nil {
		return err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if err := cleanLeftovers(dir); err != nil {
		return err
	}
	built := filepath.Join(dir, staging)
	if err := os.Mkdir(built, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := who.own(built); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := initdb(ctx, bindir, built, who, out); err != nil {
		return errors.Join(err, os.RemoveAll(built))
	}
	return moveUp(built, dir)
}

// makeRoom makes dir, but takes nothing that holds a stranger's files: they
// would change their owner.
func makeRoom(dir string, who *account) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open data folder: %w", err)
	}
	known := func(entry os.DirEntry) bool {
		return entry.Name() == staging || entry.Name() == "lost+found"
	}
	ours := slices.ContainsFunc(entries, func(entry os.DirEntry) bool { return entry.Name() == staging })
	if !ours && slices.ContainsFunc(entries, func(entry os.DirEntry) bool { return !known(entry) }) {
		return fmt.Errorf("data folder %s holds files, but no PostgreSQL cluster: choose an empty or a new folder", dir)
	}
	return makePrivate(dir, who)
}

// cleanLeftovers empties dir after a run that was killed: the staging folder is
// the sign that all the rest was moved out of it.
func cleanLeftovers(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, staging)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("open data folder: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == staging || entry.Name() == "lost+found" {
			continue
		}
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return errors.Join(err, os.RemoveAll(filepath.Join(dir, staging)))
}

// moveUp moves what is in built to dir, with the version file last.
func moveUp(built, dir string) error {
	entries, err := os.ReadDir(built)
	if err != nil {
		return fmt.Errorf("move cluster into place: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		if entry.Name() != versionFile {
			names = append(names, entry.Name())
		}
	}
	for _, name := range append(names, versionFile) {
		if err := os.Rename(filepath.Join(built, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("move cluster into place: %w", err)
		}
	}
	if err := os.Remove(built); err != nil {
		return fmt.Errorf("move cluster into place: %w", err)
	}
	return nil
}

// initdb builds a cluster. C.UTF-8 sorts by bytes and knows the letters of all
// languages; a system without that locale gets plain C with the same encoding.
func initdb(ctx context.Context, bindir, dir string, who *account, out *progress) error {
	output, err := runInitdb(ctx, bindir, dir, who, out, "--locale=C.UTF-8")
	if err != nil && strings.Contains(output, "invalid locale") {
		output, err = runInitdb(ctx, bindir, dir, who, out, "--no-locale")
	}
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, output)
	}
	return nil
}

func runInitdb(ctx context.Context, bindir, dir string, who *account, out *progress, locale string) (string, error) {
	// Not bound to ctx: that would kill initdb alone and leave its child.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(bindir, "initdb"), "-D", dir, "-U", superuser,
		"-A", "trust", "-E", "UTF8", locale, "--no-sync", "--no-instructions")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	who.apply(cmd)
	child, err := launch(cmd, syscall.SIGTERM)
	if err != nil {
		return "", err
	}
	if err := out.watch(ctx, child, "creating a PostgreSQL cluster in %s", filepath.Dir(dir)); err != nil {
		if !child.exited() {
			_, killErr := destroy(context.WithoutCancel(ctx), child.pid)
			err = errors.Join(err, killErr)
			<-child.done
		}
		return lastLines(output.String()), err
	}
	return "", nil
}
