package ledgertest

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

var ledgerTests = []test{
	{"init makes leaves 0 and 1 in one batch, once", initOnce},
	{"init refuses what contradicts itself", initRefuses},
	{"open refuses an issuer that the log did not announce", openRefuses},
	{"one statement becomes an entry with a receipt", appendOne},
	{"the same bytes get the same receipt, also after reopening", sameBytes},
	{"three hundred entries cross the tile border", acrossTiles},
	{"every path at every stored size is x/mod tlog's", secondOpinion},
	{"64 callers with the same statements make one leaf each", duplicates},
	{"a refused duplicate does not harm its neighbours", refusedDuplicate},
	{"a policy takes effect for what is queued behind it", policyMidQueue},
	{"bytes that are committed keep their receipt under a later policy", laterPolicy},
	{"a private entry shows to nobody whom the policy refuses", privateResubmitted},
	{"a decision outside its window is judged again", staleDecision},
	{"an announced key is current, the old one stays", rotatedKey},
	{"a service statement of another log is refused", foreignService},
	{"256 artifacts are found by each, 257 are refused", artifactLimit},
	{"deliveries follow from statement, policy and path", deliveriesFixed},
	{"a transparent statement verifies and carries the validated chain", transparent},
	{"a full queue refuses at once", fullQueue},
	{"closing finishes the batch in hand and answers the rest", closing},
	{"an impatient caller leaves a commit to its end", impatient},
	{"a ledger without a key reads and does not sign", readOnly},
	{"nothing is signed while the clocks disagree", clocksDisagree},
	{"head times never decrease", timesNeverDecrease},
	{"two ledgers on one store make one log", replicas},
}

// verify checks that r is the receipt of s under the operator's key.
func (w *world) verify(s *statement.Statement, r ledger.Registered) {
	w.Helper()
	id := s.ID()
	if r.Entry.ID != id {
		w.Fatalf("entry %s answers statement %s", r.Entry.ID, id)
	}
	parsed, err := receipts.Parse(r.Receipt)
	if err != nil {
		w.Fatal(err)
	}
	if err := parsed.Verify(id[:], w.operator.Receipt.Public(), receipts.Strict); err != nil {
		w.Fatalf("receipt of %s: %v", id, err)
	}
	if parsed.Issuer != w.operator.URL || parsed.Subject != w.operator.Origin || !parsed.IssuedAt.Equal(r.Entry.RegisteredAt) {
		w.Fatalf("receipt by %s of %s at %v, entry at %v", parsed.Issuer, parsed.Subject, parsed.IssuedAt, r.Entry.RegisteredAt)
	}
}

// async appends in the background and returns how to wait for it, once the
// submission is queued.
func (w *world) async(l *ledger.Ledger, sub ledger.Submission) (wait func() (ledger.Registered, error)) {
	type answer struct {
		r   ledger.Registered
		err error
	}
	done := make(chan answer, 1)
	go func() {
		r, err := l.Append(context.Background(), sub)
		done <- answer{r, err}
	}()
	for !l.Pending(sub.Statement.ID()) && len(done) == 0 {
		runtime.Gosched()
	}
	return func() (ledger.Registered, error) {
		a := <-done
		return a.r, a.err
	}
}

// appendAll appends concurrently; every answer must verify.
func (w *world) appendAll(l *ledger.Ledger, all []*statement.Statement) {
	w.Helper()
	answers := make([]ledger.Registered, len(all))
	var done sync.WaitGroup
	for i, s := range all {
		done.Go(func() {
			r, err := l.Append(w.ctx, Submission(l, s))
			if err != nil {
				w.Errorf("append %d: %v", i, err)
			}
			answers[i] = r
		})
	}
	done.Wait()
	if w.Failed() {
		w.FailNow()
	}
	for i, s := range all {
		w.verify(s, answers[i])
	}
}

// held opens a ledger whose next commit waits: what is appended while it waits
// is one batch, in order.
func (w *world) held() (l *ledger.Ledger, f *Faulty, release func()) {
	w.Helper()
	f = NewFaulty(w, w.store)
	l = w.ledger(f, w.options())
	reached, open := f.Hold()
	wait := w.async(l, Submission(l, w.wabbit.Claim(w, Image(19), SBOM, fmt.Appendf(nil, "opens the gate at %d", w.size()))))
	<-reached
	return l, f, func() {
		w.Helper()
		open()
		if _, err := wait(); err != nil {
			w.Fatal(err)
		}
	}
}
