package registrar

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/scittd/scittd/storage"
)

func TestBackoffDoublesWithJitterUpToItsCap(t *testing.T) {
	for tries := 1; tries < 100; tries++ {
		limit := maxDelay
		if tries <= 9 {
			limit = min(maxDelay, firstDelay<<(tries-1))
		}
		for range 100 {
			if d := delay(tries, errors.New("refused connection")); d <= 0 || d > limit {
				t.Fatalf("try %d waits %s; want (0, %s]", tries, d, limit)
			}
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
