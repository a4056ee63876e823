package realtime

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/centrifugal/protocol"
)

func infoFor(client string) *protocol.ClientInfo { return &protocol.ClientInfo{Client: client} }

// What is packed is parsed again, in order; each notification fits and differs from every other; info that is
// too large is left out.
func TestPackNews(t *testing.T) {
	t.Parallel()
	var all []news
	for i := range 1000 {
		one := news{Channel: `room:"1"<&>`, Join: i%2 == 0, Info: newsAbout{User: "é\n", Client: strconv.Itoa(i)}}
		if i%100 == 0 {
			one.Info.ConnInfo = []byte(`"` + strings.Repeat("x", i*20) + `"`)
		}
		all = append(all, one, one)
	}
	all = append(all, news{Channel: "c", Info: newsAbout{User: strings.Repeat("\x01", 8000), Client: "u"}})
	payloads, counts := packNews(all)
	different := slices.Compact(slices.Sorted(slices.Values(payloads)))
	if len(different) != len(payloads) || len(payloads) != len(counts) || len(payloads) > 100 {
		t.Errorf("%d payloads, %d of them different, %d counts", len(payloads), len(different), len(counts))
	}
	var back []news
	for i, p := range payloads {
		if len(p) > maxPayload {
			t.Fatalf("a notification of %d bytes", len(p))
		}
		some, err := parseNews(strings.TrimPrefix(p, kindNews))
		if err != nil || len(some) != counts[i] {
			t.Fatalf("%d of %d, %v", len(some), counts[i], err)
		}
		back = append(back, some...)
	}
	if len(back) != len(all) {
		t.Fatalf("%d of %d came back", len(back), len(all))
	}
	for i := range 2000 {
		want := all[i]
		if len(want.Info.ConnInfo) > 7000 {
			want.Info.ConnInfo = nil
		}
		if b := back[i]; b.Channel != want.Channel || b.Join != want.Join || b.Info.Client != want.Info.Client || b.Info.User != want.Info.User ||
			string(b.Info.ConnInfo) != string(want.Info.ConnInfo) {
			t.Fatalf("%+v came back as %+v", want, b)
		}
	}
	for _, bad := range []string{"", "0\n", "0\n{}", `0` + "\n" + `[{"channel":"","info":{"client":"c"}}]`, `0` + "\n" + `[{"channel":"c"}]`} {
		if _, err := parseNews(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
