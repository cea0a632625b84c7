package registrar

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Backoff of a delivery: from the first delay doubling to the longest, with full
// jitter, for ever. Where somebody has to grant a right or make a repository
// first, it is slow.
const (
	firstDelay = time.Second
	maxDelay   = 5 * time.Minute
	firstSlow  = 5 * time.Second
	maxSlow    = 30 * time.Minute
)

// errGone: the image was deleted on purpose.
var errGone = errors.New("subject-gone: the image was deleted through this service")

// outcome is the delivery's next state: done, refused for good, or queued for
// a later try. Only what the registry refuses for good parks a delivery, and an
// image that nobody need wait for.
func outcome(d ledger.Delivery, manifest string, err error, now time.Time) ledger.Delivery {
	d.Tries++
	if err == nil {
		d.State, d.Manifest, d.LastError = ledger.Done, statement.Digest(manifest), ""
		return d
	}
	if errors.Is(err, errPurged) {
		d.State, d.LastError = ledger.Dropped, ledger.PurgedDelivery
		return d
	}
	d.LastError = err.Error()
	if errors.Is(err, storage.ErrRefused) || errors.Is(err, errGone) {
		d.State = ledger.Refused
		return d
	}
	d.NextAt = now.Add(delay(d.Tries, err))
	return d
}

// delay is how long to wait before the next try: what the registry asked for
// when it did, at most maxDelay; else the backoff.
func delay(tries int, err error) time.Duration {
	if retry := (*storage.RetryError)(nil); errors.As(err, &retry) && retry.After > 0 {
		return min(retry.After, maxDelay)
	}
	first, limit := firstDelay, maxDelay
	if errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrNotFound) {
		first, limit = firstSlow, maxSlow
	}
	if tries < 10 { // beyond, the shift exceeds either limit anyway
		limit = min(limit, first<<(tries-1))
	}
	return rand.N(limit) + 1
}
