package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A response that begins as soon as the request's body is there, and goes on, is not cut: net/http closes the body of
// the browser's request then, while the transport still looks whether more of it comes.
func TestStreamByPost(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, b); err != nil {
			return
		}
		fmt.Fprintln(w, "begun")
		_ = http.NewResponseController(w).Flush()
		<-release
		fmt.Fprintln(w, "ended")
	}))
	defer server.Close()
	b := startBalancer(t, testGrace, backend{name: "a", address: server.Listener.Addr().String()})
	var all []*http.Response
	for range 300 {
		res, err := b.client.Post("http://"+b.host+"/connection/http_stream", "application/json", strings.NewReader(`{"id":1,"connect":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		all = append(all, res) //nolint:bodyclose // it is, when the test ends
	}
	close(release)
	cut := 0
	for _, res := range all {
		if body, _ := io.ReadAll(res.Body); string(body) != "begun\nended\n" { // how it fails is no matter
			cut++
		}
	}
	if cut > 0 {
		t.Errorf("%d of %d were cut", cut, len(all))
	}
}
