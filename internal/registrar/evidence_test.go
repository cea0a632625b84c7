package registrar_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/internal/envelope/envelopetest"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/ledgertest"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

const dsseType = "application/vnd.dsse.envelope.v1+json"

// asksWhoSigned puts a policy in force under which key has to have signed the
// attestations that the publisher hands in.
func (w *world) asksWhoSigned(key envelopetest.Signer) {
	w.Helper()
	pinned := policy.Key(cose.Key{Public: key.Key.Public()})
	w.publisher.Rule.Evidence = &policy.Evidence{MediaTypes: []string{dsseType}, Signers: []policy.Signer{{Key: &pinned}}}
	w.mustRegister(w.operator.Policy(w.T, w.ledger.Policy().Entry, w.operator.Document(w.publisher, w.private)))
}

// hashed is a claim about the image of w by the digest of its evidence.
func (w *world) hashed(evidence []byte) *statement.Statement {
	w.Helper()
	sum := sha256.Sum256(evidence)
	return w.publisher.Sign(w.T, statement.Template{Subject: "net-monitor@" + string(w.image), ContentType: dsseType, HashAlg: -16, Payload: sum[:]})
}

func TestStagedEvidenceIsReadToFindItsSigner(t *testing.T) {
	w := newWorld(t)
	ci := envelopetest.Signer{Key: ledgertest.NewKey(t)}
	w.asksWhoSigned(ci)
	r := registrar.New(w.ledger, registrar.Options{Registry: host, Staging: w.store})
	attestation := func(name string, by envelopetest.Signer) []byte {
		return append(envelopetest.DSSE(t, envelopetest.InToto(t, w.image), by), name...)
	}
	missing, strange, good, pushed := attestation(" ", ci), attestation("\n", envelopetest.Signer{Key: ledgertest.NewKey(t)}), attestation("\t", ci), attestation("\r", ci)
	large := make([]byte, 32<<20+1)
	for _, staged := range [][]byte{strange, good, large} {
		w.stageContent(staged)
	}
	for _, c := range []struct {
		name     string
		evidence []byte
		with     ledger.Circumstances
		code     string // of the refusal; "": admitted
		rule     string
	}{
		{"nothing staged", missing, ledger.Circumstances{}, policy.CodePayloadMissing, "issuers[0].evidence"},
		{"other bytes at hand", missing, ledger.Circumstances{Payload: good}, policy.CodePayloadMissing, "issuers[0].evidence"},
		{"by a stranger", strange, ledger.Circumstances{}, policy.CodeBadSignature, "issuers[0].evidence.signers[0].key"},
		{"more than 32 MiB", large, ledger.Circumstances{}, policy.CodeRejected, "evidence"},
		{"staged", good, ledger.Circumstances{}, "", ""},
		{"at hand", pushed, ledger.Circumstances{Payload: pushed, Evidence: statement.SHA256(pushed)}, "", ""},
	} {
		s := w.hashed(c.evidence)
		_, d, judged := r.Judge(t.Context(), s.Canonical(), c.with)
		if judged == nil && d.Refusal != nil {
			judged = d.Refusal
		}
		first, registered := r.Register(t.Context(), s.Canonical(), c.with)
		for what, err := range map[string]error{"judged": judged, "registered": registered} {
			var refusal *policy.Refusal
			switch {
			case c.code == "" && err != nil:
				t.Errorf("%s, %s: %v", c.name, what, err)
			case c.code != "" && (!errors.As(err, &refusal) || refusal.Code != c.code || refusal.Rule != c.rule || refusal.Hint == ""):
				t.Errorf("%s, %s: %v; want %s by %s", c.name, what, err, c.code, c.rule)
			}
		}
		if c.code != "" {
			continue
		}
		// Of the evidence the log keeps the digest, and what was registered is known
		// when the evidence is gone.
		record, err := w.ledger.Record(t.Context(), s.ID(), ledger.All)
		if err != nil {
			t.Fatal(err)
		}
		kept := ledger.Collateral{Kind: ledger.EvidenceCollateral, Data: []byte(statement.SHA256(c.evidence))}
		if !slices.ContainsFunc(record.Collateral, func(k ledger.Collateral) bool { return k.Kind == kept.Kind && bytes.Equal(k.Data, kept.Data) }) {
			t.Errorf("%s: kept %+v", c.name, record.Collateral)
		}
		again, err := w.registrar.Register(t.Context(), s.Canonical(), ledger.Circumstances{Scope: ledger.Public})
		if err != nil || again.New || !bytes.Equal(again.Receipt, first.Receipt) {
			t.Errorf("%s, without its evidence: new %v, %v", c.name, again.New, err)
		}
	}
}

// Evidence that is too large to look for its signer was none too large to register
// while nobody asked.
func TestWhatIsRegisteredKeepsItsReceiptUnderAPolicyThatAsksWhoSigned(t *testing.T) {
	w := newWorld(t)
	large := make([]byte, 32<<20+1)
	w.stageContent(large)
	s := w.hashed(large)
	first := w.mustRegister(s)
	w.asksWhoSigned(envelopetest.Signer{Key: ledgertest.NewKey(t)})
	r := registrar.New(w.ledger, registrar.Options{Registry: host, Staging: w.store})
	again, err := r.Register(t.Context(), s.Canonical(), ledger.Circumstances{Scope: ledger.Public})
	if err != nil || again.New || !bytes.Equal(again.Receipt, first.Receipt) {
		t.Errorf("again: new %v, %v", again.New, err)
	}
}

// A policy that asks for evidence may come into force while a statement is on its way.
func TestAStatementJudgedWithoutEvidenceIsNotAdmittedByAPolicyThatAsksForIt(t *testing.T) {
	w := newWorld(t)
	s := w.hashed(envelopetest.DSSE(t, envelopetest.InToto(t, w.image), envelopetest.Signer{Key: ledgertest.NewKey(t)}))
	before := ledgertest.Submission(w.ledger, s)
	w.asksWhoSigned(envelopetest.Signer{Key: ledgertest.NewKey(t)})
	if _, err := w.ledger.Append(t.Context(), before); !errors.Is(err, ledger.ErrMeanwhile) || !strings.Contains(err.Error(), string(s.Evidence())) {
		t.Errorf("got %v", err)
	}
}
