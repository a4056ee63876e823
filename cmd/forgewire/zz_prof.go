package main

import (
	"net/http"
	_ "net/http/pprof"
	"os"
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		go http.ListenAndServe("127.0.0.1:16660", nil)
	}
}
