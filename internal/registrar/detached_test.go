package registrar_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// stage keeps content for a day.
func (w *world) stageContent(content []byte) statement.Digest {
	w.Helper()
	digest := statement.SHA256(content)
	if _, err := w.store.Stage(w.Context(), digest, bytes.NewReader(content), ledger.StagingLimits{MaxSize: 1 << 30, Quota: 1 << 30, Keep: 24 * time.Hour}); err != nil {
		w.Fatal(err)
	}
	return digest
}

func TestADetachedStatementIsVerifiedOverWhatWasStaged(t *testing.T) {
	w := newWorld(t)
	r := registrar.New(w.ledger, registrar.Options{Registry: host, Staging: w.store})
	payload := []byte("an SBOM")
	s := w.publisher.Sign(t, statement.Template{Subject: "net-monitor", ContentType: ledgertest.SBOM, Payload: payload, Detached: true})
	digest, other := w.stageContent(payload), w.stageContent([]byte("another"))
	large := w.stageContent(make([]byte, 32<<20+1))
	envelope := w.publisher.Claim(t, w.image, ledgertest.SBOM, payload)
	for _, c := range []struct {
		name string
		s    *statement.Statement
		with ledger.Circumstances
		code string // of the refusal; "": admitted
		rule string
	}{
		{"nothing named", s, ledger.Circumstances{}, policy.CodePayloadMissing, "payload"},
		{"nothing staged", s, ledger.Circumstances{Evidence: statement.SHA256(nil)}, policy.CodePayloadMissing, "payload"},
		{"another's", s, ledger.Circumstances{Evidence: other}, policy.CodeBadSignature, "issuers[0].key"},
		{"too large", s, ledger.Circumstances{Evidence: large}, policy.CodeRejected, "evidence"},
		{"named for an envelope of another", envelope, ledger.Circumstances{Evidence: other}, policy.CodeRejected, "evidence"},
		{"named for its envelope", envelope, ledger.Circumstances{Evidence: digest}, "", ""},
		{"at hand", s, ledger.Circumstances{Payload: payload}, "", ""},
		{"staged", s, ledger.Circumstances{Evidence: digest}, "", ""},
	} {
		before, err := w.ledger.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// Judging says what registering does, and only that changes anything.
		_, d, judged := r.Judge(t.Context(), c.s.Canonical(), c.with)
		if judged == nil && d.Refusal != nil {
			judged = d.Refusal
		}
		after, err := w.ledger.Head(t.Context())
		if err != nil || after.Size != before.Size {
			t.Errorf("%s: a judgement made the log %d long, %v", c.name, after.Size, err)
		}
		_, registered := r.Register(t.Context(), c.s.Canonical(), c.with)
		for what, err := range map[string]error{"judged": judged, "registered": registered} {
			var refusal *policy.Refusal
			switch {
			case c.code == "" && err != nil:
				t.Errorf("%s, %s: %v", c.name, what, err)
			case c.code != "" && (!errors.As(err, &refusal) || refusal.Code != c.code || refusal.Rule != c.rule || refusal.Hint == ""):
				t.Errorf("%s, %s: %v; want %s by %s", c.name, what, err, c.code, c.rule)
			}
		}
	}

	// Registered, it is known without its payload.
	if _, d, err := r.Judge(t.Context(), s.Canonical(), ledger.Circumstances{}); err != nil || d.Refusal != nil || d.Rule != "issuers[0].key" {
		t.Errorf("known: %+v, %v", d, err)
	}
	e, err := w.ledger.Entry(t.Context(), s.ID(), ledger.Public)
	if err != nil || e.Evidence != digest {
		t.Errorf("evidence %q, %v", e.Evidence, err)
	}
}

func TestAStatementForAnotherImageIsRefusedAlsoWhenItIsKnown(t *testing.T) {
	w := newWorld(t)
	s := w.publisher.Claim(t, w.image, ledgertest.SBOM, []byte("sbom"))
	for range 2 {
		var refusal *policy.Refusal
		_, err := w.registrar.Register(t.Context(), s.Canonical(), ledger.Circumstances{Repository: repository, Image: ledgertest.Image(9)})
		if !errors.As(err, &refusal) || refusal.Code != policy.CodeSubjectMismatch {
			t.Errorf("got %v", err)
		}
		w.mustRegister(s)
	}
}
