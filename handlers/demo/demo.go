package demo

import (
	"embed"
	"encoding/json"
	"net/http"

	"forgewire/handlers/page"
)

//go:embed assets
var assets embed.FS

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
	files := page.Files(assets, "assets")
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
	return page.Guard("'none'", mux)
}
