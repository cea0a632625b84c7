package replay_test

import (
	"flag"
	"slices"
	"testing"

	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

var update = flag.Bool("update", false, "record testdata/recorded anew, with what the eNotary decides today")

const recordedLog = "testdata/recorded"

// A decision is for ever: what was admitted once, and how, must be found the same
// by every later eNotary. When this fails, an auditor who repeats the decisions of
// some log will find it changed: make the change apply to new policies alone. Only
// where it adds kinds of decisions should the log be recorded anew, with -update.
func TestPastDecisionsStayAsTheyWere(t *testing.T) {
	if *update {
		record(t, recordedLog)
	}
	f, err := replay.OpenFolder(recordedLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	report, found := run(t, f, replay.Options{})
	for _, d := range found {
		t.Error(d)
	}
	if report.Replayed != report.Size || report.Size < 500 || report.Policies < 3 || report.Receipts < 50 || len(report.Gaps) > 0 {
		t.Errorf("%d of %d replayed, %d policies, %d receipts, gaps %v", report.Replayed, report.Size, report.Policies, report.Receipts, report.Gaps)
	}
	kinds, rules := map[string]int{}, map[string]int{}
	private, kept := 0, map[string]int{}
	for e, err := range f.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		kinds[e.Identity.Kind]++
		rules[e.Rule]++
		if e.Private {
			private++
		}
		for _, c := range e.Collateral {
			kept[c.Kind]++
		}
	}
	for _, kind := range []string{policy.PinnedKey, policy.Certificate, policy.OperatorKey, "did", "keys", "oidc"} {
		if kinds[kind] < 4 {
			t.Errorf("%d decisions about identities of kind %s; recorded are %v", kinds[kind], kind, kinds)
		}
	}
	for _, kind := range []string{"x5chain", "payload", policy.DIDDocument, policy.KeySetDocument, policy.EvidenceDocument, policy.TimestampToken} {
		if kept[kind] < 4 {
			t.Errorf("%d decisions with collateral of kind %s; recorded are %v", kept[kind], kind, kept)
		}
	}
	if private < 10 || len(rules) < 35 {
		t.Errorf("%d private entries, %d rules: %v", private, len(rules), rules)
	}
}

// The log is only worth its place if a change shows in it.
func TestEveryRecordedDecisionIsHeldAgainst(t *testing.T) {
	f, err := replay.OpenFolder(recordedLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := &held{}
	for head, err := range f.Heads() {
		if err != nil {
			t.Fatal(err)
		}
		h.heads = append(h.heads, head)
	}
	for e, err := range f.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		h.entries = append(h.entries, e)
	}
	// Without the evidence, entries that need it are gaps, and no deviations.
	report, found := run(t, h, replay.Options{})
	gaps := []string{}
	for _, g := range report.Gaps {
		gaps = append(gaps, g.Why)
	}
	if slices.Sort(gaps); !slices.Equal(gaps, []string{replay.GapEvidence, replay.GapPayload}) || len(found) > 0 {
		t.Errorf("without evidence: gaps %v, %v", gaps, found)
	}
	for i := range h.entries {
		h.entries[i].Rule += "x"
	}
	_, found = run(t, withEvidence{h, f}, replay.Options{})
	named := map[string]bool{}
	for _, d := range found {
		named[d.Object] = true
	}
	if len(named) != len(h.entries) || slices.ContainsFunc(found, func(d replay.Deviation) bool { return d.Kind != replay.Decision }) {
		t.Errorf("%d entries are named of %d", len(named), len(h.entries))
	}
}

// withEvidence has the evidence of a folder.
type withEvidence struct {
	*held
	folder *replay.Folder
}

func (w withEvidence) Evidence(d statement.Digest) ([]byte, error) { return w.folder.Evidence(d) }
