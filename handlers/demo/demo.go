package demo

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed assets
var assets embed.FS

// policy lets the page load and reach nothing but its own server. ws: and wss:
// are named because not every browser counts a WebSocket to the same host as 'self'.
const policy = "default-src 'self'; connect-src 'self' ws: wss:; object-src 'none'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Config is what the page shows besides messages.
type Config struct {
	PSQL  string `json:"psql"`  // a command that publishes through psql
	Curl  string `json:"curl"`  // a command that publishes over HTTP
	Key   string `json:"key"`   // what the prompt box asks with; "" for none
	Model string `json:"model"` // what is to be known of the model that it asks; "" for nothing
}

// Handler serves the page at "/", its files below "/demo/", and cfg as
// "/demo/config.json".
func Handler(cfg Config) http.Handler {
	files := load()
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", files["index.html"])
	for name, f := range files {
		mux.Handle("GET /demo/"+name, f)
	}
	mux.HandleFunc("GET /demo/config.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(cfg) // fails only when the browser has gone
	})
	return guard(mux)
}

// guard sets the headers that keep the page to itself.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// file is one embedded file. It is served with a tag of its content, because
// embedded files have no time that a browser could ask about.
type file struct {
	content     []byte
	contentType string
	tag         string
}

// ServeHTTP serves the file, or says that the browser's copy is still right.
func (f *file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("ETag", f.tag)
	h.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

// load reads the embedded files. What is embedded is there, so an error means
// that the binary itself is broken.
func load() map[string]*file {
	entries, err := fs.ReadDir(assets, "assets")
	if err != nil {
		panic("demo: read the embedded files: " + err.Error())
	}
	files := make(map[string]*file, len(entries))
	for _, e := range entries {
		content, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			panic("demo: read the embedded files: " + err.Error())
		}
		sum := sha256.Sum256(content)
		files[e.Name()] = &file{
			content:     content,
			contentType: typeOf(e.Name()),
			tag:         `"` + hex.EncodeToString(sum[:8]) + `"`,
		}
	}
	return files
}

// typeOf names the types that the page needs itself: the system's table, which
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
