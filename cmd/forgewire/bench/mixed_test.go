package bench

import (
	"testing"
	"time"
)

func TestMixed(t *testing.T) {
	t.Parallel()
	r, err := Mixed(testContext(t), MixedConfig{Replicas: 2, Subscribers: 4, Channels: 2, Size: 150, Publish: 50, SQL: 20, LLM: 20, Cached: 50, Uncached: 10, Write: 5,
		Warmup: 500 * time.Millisecond, Duration: 2 * time.Second, Setup: Setup{Binary: binary, Progress: testLog{t}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{actHTTP, actSQL, actLLM, actCached, actUncached, actWrite, actReceive + ", from HTTP", actReceive + ", from SQL"} {
		row := r.table(mixedTable).row(name)
		if row == nil || row.Tally != nil && (row.Tally.Asked == 0 || row.Tally.Success() != 1) || row.times(mixedTime).Count == 0 {
			t.Errorf("%s: %+v", name, row)
		}
	}
	if len(r.table(mixedSeconds).Rows) < 6 {
		t.Errorf("%+v", r.table(mixedSeconds))
	}
	checkPrints(t, r, actSQL, "CPU replicas")
}

// Against a deployment that runs already, what was not given for it is left out, and it says so.
func TestMixedElsewhere(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	st, err := startStack(ctx, stackConfig{Binary: binary, Replicas: 1, Progress: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.stop(ctx); err != nil {
			t.Error(err)
		}
	}()
	target := Target{URLs: []string{st.replicas[0].url.String()}, APIKey: st.apiKey, Key: st.apiKey}
	cfg := MixedConfig{Replicas: 1, Subscribers: 2, Channels: 1, Size: 150, Publish: 20, SQL: 20, LLM: 20, Cached: 20, Uncached: 10, Write: 5,
		Warmup: 100 * time.Millisecond, Duration: time.Second, Setup: Setup{Target: target, Progress: testLog{t}}}
	r, err := Mixed(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	checkPrints(t, r, "Left out: publishers in SQL", "Left out: LLM clients", actUncached)
	cfg.Target.Database = st.database
	if r, err = Mixed(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	checkPrints(t, r, "Left out: LLM clients", actSQL, actReceive+", from SQL")
}
