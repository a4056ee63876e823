package main

import (
	"os"
	"testing"

	"forgewire/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }
