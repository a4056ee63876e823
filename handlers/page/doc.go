// Package page is what our pages have in common: how their embedded files are served, the policy that keeps them to
// themselves, and the files that all of them use (colours and letters, the icon, and the published browser bundle of
// the centrifuge client, unchanged; its version is in the file's name and its licence lies beside it).
//
// There is no build step: a page is embedded as it is written.
//
//	files := page.Files(assets, "assets")          // the page's own, and the shared ones
//	mux.Handle("GET /demo/", http.StripPrefix("/demo/", files))
//	handler := page.Guard("'none'", mux)
package page
