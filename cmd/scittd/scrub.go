package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/scittd/scittd/ledger/fsck"
)

// Between two pages the scrubber leaves the machine to others: at least
// leastPause, and as long as makes a round take Config.Scrub.
const leastPause = 50 * time.Millisecond

// errDamage is why a scrubber stopped the signing.
var errDamage = errors.New("what is stored is not what was signed")

// scrub reads the whole log again and again and compares it with what was
// signed. The first finding stops the signing, and the round goes on, so that
// the log tells all of them.
func (s *service) scrub(ctx context.Context, every time.Duration) {
	for {
		began := time.Now()
		err := s.scrubOnce(ctx, every)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Warn("scrubbing interrupted; it begins anew", "err", err)
		}
		pause := max(every-time.Since(began), leastPause)
		if err != nil {
			pause = min(pause, time.Minute)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// scrubOnce is one round.
func (s *service) scrubOnce(ctx context.Context, every time.Duration) error {
	findings := 0
	c, err := fsck.New(ctx, s.db, func(f fsck.Finding) {
		if findings++; findings <= maxFindings {
			s.log.Error("the log is damaged", "kind", f.Kind, "object", f.Object, "what", f.What, "stored", f.Got, "recomputed", f.Want)
		}
		s.ledger.Halt(fmt.Errorf("%w: %v", errDamage, f))
	})
	if err != nil {
		return err
	}
	pages := c.Size()/fsck.PageSize + 1
	pause := max(every/time.Duration(pages), leastPause)
	for more := true; more; {
		if more, err = c.Step(ctx); err != nil {
			return err
		}
		if more && !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
	if err := c.Finish(ctx, false); err != nil {
		return err
	}
	s.log.Debug("scrubbed", "size", c.Size(), "findings", findings)
	return nil
}

// sleep waits, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
