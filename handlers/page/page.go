package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed assets
var shared embed.FS

// policy lets a page load and reach nothing but its own server. ws: and wss:
// are named because not every browser counts a WebSocket to the same host as 'self'.
const policy = "default-src 'self'; connect-src 'self' ws: wss:; object-src 'none'; " +
	"base-uri 'none'; frame-ancestors 'none'; form-action "

// Guard sets the headers that keep a page to itself. formAction says where its forms may be sent: 'none' or 'self'.
func Guard(formAction string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy+formAction)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// Set is the files of a page, by name.
type Set map[string]*File

// File is one embedded file. It is served with a tag of its content, because
// embedded files have no time that a browser could ask about.
type File struct {
	content     []byte
	contentType string
	tag         string
}

// ServeHTTP serves the file, or says that the browser's copy is still right.
func (f *File) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("ETag", f.tag)
	h.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

// Files reads the embedded files of a folder, and the shared ones. What is embedded is there, so an error means
// that the binary itself is broken.
func Files(own embed.FS, dir string) Set {
	files := Set{}
	files.add(shared, "assets")
	files.add(own, dir)
	return files
}

func (s Set) add(from embed.FS, dir string) {
	entries, err := fs.ReadDir(from, dir)
	if err != nil {
		panic("page: read the embedded files: " + err.Error())
	}
	for _, e := range entries {
		content, err := from.ReadFile(dir + "/" + e.Name())
		if err != nil {
			panic("page: read the embedded files: " + err.Error())
		}
		sum := sha256.Sum256(content)
		s[e.Name()] = &File{content: content, contentType: typeOf(e.Name()), tag: `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
}

// ServeHTTP serves the file that the path names.
func (s Set) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := s[r.URL.Path]; f != nil {
		f.ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// typeOf names the types that the pages need itself: the system's table, which
// package mime reads, is wrong or empty on some machines.
func typeOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".txt":
		return "text/plain; charset=utf-8"
	}
	return mime.TypeByExtension(path.Ext(name))
}
