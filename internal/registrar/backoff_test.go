package registrar

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/storage"
)

func TestBackoffDoublesWithJitterUpToItsCap(t *testing.T) {
	for name, tt := range map[string]struct {
		err           error
		first, capped time.Duration
	}{
		"an answer that never came":        {errors.New("refused connection"), time.Second, 5 * time.Minute},
		"an image that is not there yet":   {storage.ErrSubjectAbsent, time.Second, 5 * time.Minute},
		"a right that somebody must grant": {fmt.Errorf("push: %w", storage.ErrDenied), 5 * time.Second, 30 * time.Minute},
		"a repository that is not there":   {fmt.Errorf("push: %w", storage.ErrNotFound), 5 * time.Second, 30 * time.Minute},
	} {
		limit := tt.first
		for tries := 1; tries < 100; tries++ {
			longest := time.Duration(0)
			for range 200 {
				d := delay(tries, tt.err)
				if longest = max(longest, d); d <= 0 || d > limit {
					t.Fatalf("%s: try %d waits %s; want (0, %s]", name, tries, d, limit)
				}
			}
			if longest < limit/2 {
				t.Fatalf("%s: try %d waits at most %s of %s", name, tries, longest, limit)
			}
			limit = min(2*limit, tt.capped)
		}
	}
}

func TestRetryAfterIsHonouredUpToTheCap(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{
		3 * time.Second: 3 * time.Second,
		time.Hour:       maxDelay,
	} {
		err := fmt.Errorf("push: %w", &storage.RetryError{After: asked, Err: errors.New("429")})
		if got := delay(1, err); got != want {
			t.Errorf("asked for %s, waits %s, want %s", asked, got, want)
		}
	}
}

func TestOnlyWhatIsForGoodIsNotTriedAgain(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ledger.Done},
		{fmt.Errorf("413: %w", storage.ErrRefused), ledger.Refused},
		{errGone, ledger.Refused},
		{errPurged, ledger.Dropped},
		{storage.ErrDenied, ledger.Queued},
		{storage.ErrNotFound, ledger.Queued},
		{storage.ErrNotListed, ledger.Queued},
		{storage.ErrSubjectAbsent, ledger.Queued},
		{storage.ErrTrouble, ledger.Queued},
		{errNoRegistry, ledger.Queued},
	} {
		d := outcome(ledger.Delivery{State: ledger.Queued, Tries: 1000}, "sha256:1", tt.err, now)
		if d.State != tt.want || d.Tries != 1001 || (d.State == ledger.Queued) != d.NextAt.After(now) || (tt.err == nil) != (d.LastError == "") {
			t.Errorf("%v: %+v, want %s", tt.err, d, tt.want)
		}
	}
}

func TestLagIsCountedInItsBucket(t *testing.T) {
	var placed tally
	now := time.Now()
	for _, lag := range []time.Duration{-time.Second, time.Second, 3 * time.Second, 48 * time.Hour} {
		placed.count(ledger.Delivery{State: ledger.Done, Since: now.Add(-lag)}, now)
	}
	placed.count(ledger.Delivery{State: ledger.Queued}, now)
	placed.count(ledger.Delivery{State: ledger.Refused}, now)
	want := [13]uint64{0: 2, 2: 1, 12: 1}
	if placed.Lag.Buckets != want || placed.Placed != 4 || placed.Failed != 1 || placed.Refused != 1 || placed.Lag.Sum != 48*time.Hour+4*time.Second {
		t.Errorf("%+v", placed.RouteFigures)
	}
}
