package monitor

import (
	"context"
	"testing"
)

func TestOverall(t *testing.T) {
	m := New()
	for _, route := range []string{"/a", "/a", "/b"} {
		_, r := m.Begin(context.Background())
		r.Done(route, "GET", 200)
	}
	s, err := m.Mergeable().Overall()
	if err != nil || s.Count != 3 || s.Max < s.P50 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err = m.Stats().Overall(); err == nil {
		t.Error("figures without histograms are summed up")
	}
	if s, err = New().Mergeable().Overall(); err != nil || s.Count != 0 {
		t.Errorf("nothing: %+v, %v", s, err)
	}
}
