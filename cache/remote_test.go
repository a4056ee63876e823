package cache

import (
	"log/slog"
	"testing"
)

// What the URL says of the servers holds for the sentinels too: they are never dialled in plain text beside a TLS server.
func TestSentinelsAreSpokenToAsTheServersAre(t *testing.T) {
	t.Parallel()
	o, err := options(Config{URL: "rediss://user:secret@sentinel.test:26379?master_set=main", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := o.Sentinel
	if s.MasterSet != "main" || s.Username != "user" || s.Password != "secret" || s.TLSConfig == nil || s.TLSConfig.ServerName != "sentinel.test" ||
		s.Dialer.Timeout != dialTimeout || s.Dialer.KeepAlive != pingGap || s.ClientName != o.ClientName || o.ForceSingleClient {
		t.Errorf("%+v", s)
	}
	if o, err = options(Config{URL: "redis://user:secret@server.test"}); err != nil || o.Sentinel.Password != "" || !o.ForceSingleClient {
		t.Errorf("%+v, %v", o.Sentinel, err)
	}
}
