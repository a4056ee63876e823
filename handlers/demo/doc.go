// Package demo is the page that `forgewire dev` shows at "/": two panes, each
// connected to one replica, that show a message crossing from one to the other,
// a connection that is cut and resumes without loss, a prompt box that asks a
// model through both and shows what the cache did, and the lines to publish from
// outside.
//
// The page is embedded as it is written: there is no build step. What it shares
// with other pages, such as the centrifuge client, is in package page.
//
//	routes.Handle("/*", demo.Handler(demo.Config{PSQL: "psql …", Curl: "curl …"}))
//
// It never talks to the hub or the database: all that it shows, the browser
// gets through the same API as everybody. It is for development: the lines that
// it shows contain the API key.
package demo
