package ledgertest

import (
	"errors"
	"slices"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

var detachedTests = []test{
	{"a detached statement is admitted over its payload, whose digest is indexed and kept", detached},
	{"a detached statement is judged again over the same payload", detachedJudgedAgain},
	{"a claim that names no image is placed at the one it came for", placedAtImage},
	{"a claim that names images comes for one of them or not at all", foreignImage},
}

// Detached signs payload, which is not in the message, about sub.
func (p *Publisher) Detached(w *world, sub string, payload []byte) *statement.Statement {
	w.Helper()
	return p.Sign(w, statement.Template{Subject: sub, ContentType: SBOM, Payload: payload, Detached: true})
}

func withPayload(w *world, s *statement.Statement, payload []byte) *statement.Statement {
	w.Helper()
	whole, err := s.WithPayload(statement.SHA256(payload), payload)
	if err != nil {
		w.Fatal(err)
	}
	return whole
}

func detached(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	payload := []byte(`{"spdxVersion":"SPDX-2.3"}`)
	for _, p := range []*Publisher{w.wabbit, w.acme, w.secret} {
		s := p.Detached(w, "pkg:oci/net-monitor@"+string(Image(1)), payload)

		var refusal *policy.Refusal
		if _, err := l.Append(w.ctx, Submission(l, s)); !errors.As(err, &refusal) || refusal.Code != policy.CodePayloadMissing {
			w.Errorf("%s without its payload: %v", p.Name, err)
		}
		if _, err := l.Append(w.ctx, Submission(l, withPayload(w, s, []byte("another")))); !errors.As(err, &refusal) || refusal.Code != policy.CodeBadSignature {
			w.Errorf("%s over another payload: %v", p.Name, err)
		}
		r := Append(w, l, withPayload(w, s, payload))
		w.verify(s, r)
		if r.Entry.Evidence != statement.SHA256(payload) || !slices.Equal(r.Entry.Artifacts, []statement.Digest{Image(1)}) {
			w.Errorf("%s: evidence %q, artifacts %v", p.Name, r.Entry.Evidence, r.Entry.Artifacts)
		}
		found, err := w.store.Find(w.ctx, ledger.Query{Scope: ledger.All, Evidence: []statement.Digest{statement.SHA256(payload)}, Issuers: []string{p.Name}, Limit: 10})
		if err != nil || len(found) != 1 {
			w.Errorf("%s: %d entries are found by the evidence, %v", p.Name, len(found), err)
		}
		kept, err := w.store.Record(w.ctx, s.ID(), ledger.All)
		last := len(kept.Collateral) - 1
		if err != nil || last < 0 || kept.Collateral[last].Kind != ledger.PayloadCollateral || string(kept.Collateral[last].Data) != string(statement.SHA256(payload)) {
			w.Errorf("%s: kept %v, %v", p.Name, kept.Collateral, err)
		}
	}
	w.check()
	w.reopen()
	w.check()
}

// What the sequencer judges again, as after a change of policy, has the payload
// still.
func detachedJudgedAgain(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	payload := []byte("an SBOM")
	s := withPayload(w, w.wabbit.Detached(w, "net-monitor", payload), payload)
	sub := Submission(l, s)
	sub.Decision.NotAfter = time.Unix(1, 0) // over long ago
	if _, err := l.Append(w.ctx, sub); err != nil {
		w.Fatal(err)
	}
	w.check()
}

func placedAtImage(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	s := w.wabbit.Sign(w, statement.Template{Subject: "net-monitor", ContentType: SBOM, Payload: []byte("sbom")})
	sub := Submission(l, s)
	sub.Repository, sub.Image = "team/x", Image(7)
	r, err := l.Append(w.ctx, sub)
	if err != nil {
		w.Fatal(err)
	}
	if len(r.Entry.Artifacts) != 0 {
		w.Errorf("the index says that it is about %v", r.Entry.Artifacts)
	}
	placed, err := l.Deliveries(w.ctx, s.ID(), ledger.All)
	if err != nil || len(placed) != 2 || placed[0].Subject != Image(7) || placed[0].Repository != "team/x" {
		w.Errorf("deliveries %v, %v", placed, err)
	}
	kept, err := w.store.Record(w.ctx, s.ID(), ledger.All)
	if err != nil || kept.Image != Image(7) {
		w.Errorf("the record has image %q, %v", kept.Image, err)
	}
	w.deliver(s, 4)
	for n := range 3 {
		if got := w.placed(n + 1); len(got) != 2 || got[0].EntryID != s.ID() || got[0].Subject != Image(7) {
			w.Errorf("placed, on pages of %d: %v", n+1, got)
		}
	}
	at := placed[0].Place()
	if got, next, err := w.store.PlacedAt(w.ctx, at, 0, 9); err != nil || len(got) != 2 || next != 0 {
		w.Errorf("placed at %+v: %v, %d, %v", at, got, next, err)
	}
	// The image is deleted.
	for _, want := range []bool{false, true} {
		if marked, err := w.store.Marked(w.ctx, at, "deleted"); err != nil || marked != want {
			w.Errorf("marked %v, %v, want %v", marked, err, want)
		}
		w.mark(ledger.Marking{Registry: at.Registry, Repository: at.Repository, Subject: at.Subject, State: ledger.EvidencePurged, Why: "deleted"})
	}
	for _, other := range []ledger.Place{{Registry: at.Registry, Repository: "other", Subject: at.Subject}, {Registry: at.Registry, Repository: at.Repository, Subject: Image(8)}} {
		if marked, err := w.store.Marked(w.ctx, other, "deleted"); err != nil || marked {
			w.Errorf("marked at %+v: %v, %v", other, marked, err)
		}
	}
	w.wantState(s, ledger.EvidencePurged)
	w.check()
}

func foreignImage(w *world) {
	w.init()
	l := w.ledger(w.store, w.options())
	for i, s := range []*statement.Statement{
		w.wabbit.Claim(w, Image(1), SBOM, []byte("sbom")),
		w.wabbit.Provenance(w, "https://slsa.dev/provenance/v1", Image(1), Image(2)),
	} {
		sub := Submission(l, s)
		sub.Repository, sub.Image = "team/x", Image(3)
		var refusal *policy.Refusal
		if _, err := l.Append(w.ctx, sub); !errors.As(err, &refusal) || refusal.Code != policy.CodeSubjectMismatch {
			w.Errorf("statement %d for another image: %v", i, err)
		}
		sub.Image = Image(1)
		if _, err := l.Append(w.ctx, sub); err != nil {
			w.Errorf("statement %d for an image that it names: %v", i, err)
		}
	}
	w.check()
}
