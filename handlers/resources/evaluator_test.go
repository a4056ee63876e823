package resources

import (
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// However often a worker has died or failed, an evaluation is tried again within about a minute.
func TestRetriesStayShort(t *testing.T) {
	t.Parallel()
	for _, attempt := range []int{1, 2, 10, 100, manyAttempts} {
		j := &river.Job[job]{JobRow: &rivertype.JobRow{Attempt: attempt}}
		if wait := time.Until((&evaluator{}).NextRetry(j)); wait < time.Second || wait > time.Minute {
			t.Errorf("after attempt %d: %v", attempt, wait)
		}
	}
}
