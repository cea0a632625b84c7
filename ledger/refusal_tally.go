package ledger

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// RefusalCount is how often one rule of one policy refused statements of one
// issuer. Reason and Hint are what the last one was told.
type RefusalCount struct {
	Code   string
	Rule   string       // "" where no policy was asked: the bytes are no statement
	Policy statement.ID // zero likewise
	Issuer string       // as the statements say themselves, unverified; "" = none, or one of many
	Count  uint64
	First  time.Time
	Last   time.Time
	Reason string
	Hint   string
}

// Bounds of what is kept: counts, the longest unused going first; bytes of an
// issuer, a rule, a reason and a hint; and kinds of refusals between two writes,
// beyond which issuers are not told apart.
const (
	MaxRefusalCounts = 10_000
	maxRefusalText   = 1024
	maxTallied       = 1024
)

// tallyEvery is how often a RefusalTally is written.
const tallyEvery = 10 * time.Second

// RefusalTally counts the refusals of one process and adds them to the database's now
// and then, so that no answer waits for it. What was counted since the last time
// is lost with the process, and what cannot be written is dropped: figures, not
// records. It keeps no statement. Safe for concurrent use.
type RefusalTally struct {
	store Refusals
	log   *slog.Logger

	mu    sync.Mutex // held for a few lookups
	open  map[refusalKind]*RefusalCount
	codes map[string]uint64
}

type refusalKind struct {
	code, rule, issuer string
	policy             statement.ID
}

// NewRefusalTally counts for one database.
func NewRefusalTally(store Refusals, log *slog.Logger) *RefusalTally {
	return &RefusalTally{store: store, log: log, open: map[refusalKind]*RefusalCount{}, codes: map[string]uint64{}}
}

// Count counts a refusal at a time. Of what is no statement the issuer is "", and
// of r only Code and Reason are set.
func (t *RefusalTally) Count(r *policy.Refusal, issuer string, at time.Time) {
	kind := refusalKind{r.Code, clipped(r.Rule), clipped(issuer), r.Policy}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.codes[r.Code]++ // codes are the problem table's
	c := t.open[kind]
	if c == nil && len(t.open) >= maxTallied {
		kind.issuer = ""
		c = t.open[kind]
	}
	if c == nil {
		c = &RefusalCount{Code: kind.code, Rule: kind.rule, Policy: kind.policy, Issuer: kind.issuer, First: at}
		t.open[kind] = c
	}
	c.Count++
	c.Last, c.Reason, c.Hint = at, clipped(r.Reason), clipped(r.Hint)
}

// clipped bounds a text that may be a stranger's.
func clipped(s string) string {
	if len(s) > maxRefusalText {
		s = s[:maxRefusalText]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
}

// Codes says how often each code was counted since the process began.
func (t *RefusalTally) Codes() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.codes)
}

// Run writes the counts until ctx ends, and then once more.
func (t *RefusalTally) Run(ctx context.Context) {
	tick := time.NewTicker(tallyEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.flush(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			t.flush(last)
			return
		}
	}
}

func (t *RefusalTally) flush(ctx context.Context) {
	if err := t.Flush(ctx); err != nil {
		t.log.Warn("refusals not counted", "err", err)
	}
}

// Flush writes what was counted since the last time.
func (t *RefusalTally) Flush(ctx context.Context) error {
	t.mu.Lock()
	open := t.open
	t.open = map[refusalKind]*RefusalCount{}
	t.mu.Unlock()
	if len(open) == 0 {
		return nil
	}
	counts := make([]RefusalCount, 0, len(open))
	for _, c := range open {
		counts = append(counts, *c)
	}
	// Others may be writing the same: equal order, so that the two wait for each
	// other in one direction only.
	slices.SortFunc(counts, func(a, b RefusalCount) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Rule, b.Rule), slices.Compare(a.Policy[:], b.Policy[:]), cmp.Compare(a.Issuer, b.Issuer))
	})
	return t.store.CountRefusals(ctx, counts)
}
