package devstack

import "testing"

func TestParseStat(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]procInfo{
		"7 (postgres) S 42 7 7":  {pid: 7, parent: 42, state: 'S'},
		"7 (a) b) c (d) T 1 7 7": {pid: 7, parent: 1, state: 'T'},
	} {
		if got, ok := parseStat(7, stat); got != want || !ok {
			t.Errorf("parseStat(%q) = %+v, %v", stat, got, ok)
		}
	}
	for _, stat := range []string{"", "7 (x", "7 (x)", "7 (x) S", "7 (x) S y"} {
		if got, ok := parseStat(7, stat); ok {
			t.Errorf("parseStat(%q) = %+v", stat, got)
		}
	}
}
