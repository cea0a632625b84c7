package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func evidenceCommand(p process) *cobra.Command {
	return group("evidence", "Purge evidence, and record on the log what was purged", evidencePurge(p), evidenceRecord(p))
}

// purging are evidence purge's flags.
type purging struct {
	reason, retention   string
	dryRun, noStatement bool
	service, tokenFile  string
}

func evidencePurge(p process) *cobra.Command {
	var dir, file string
	var o purging
	cmd := &cobra.Command{
		Use:   "purge ENTRY... | --retention FILE",
		Short: "Remove evidence for good; claims and receipts stay",
		Long: `Declare the evidence of entries purged, or of all that a file of retention rules
lets go. Evidence is bytes: they go from wherever they were placed, for every claim
that speaks of them, and from what is staged. The running service removes them from
the registry, however long that takes; the claims, their receipts, and digest, size
and type of the evidence stay.

What was purged is recorded on the log by a statement of its own, signed with the
operator key like a policy: by then the purge is done. Where the key is offline, purge
with --no-statement and record later, with scittd evidence record. Of private claims
the statement names the entry and nothing else.

A file of rules:

  rules:
    - name: scans
      olderThan: 90d                        # since the claim was registered
      mediaTypes: [application/sarif+json]  # any of them; none given: all
      repositories: ["internal/*"]          # every place of it must fit one; none given: all
      reason: scans are kept for 90 days

All conditions of a rule must hold, and for every claim that speaks of the same
bytes. --dry-run lists what would go.`,
		Example: "  scittd evidence purge 67ed41f1... --reason 'contains personal data' --token-file token\n  scittd evidence purge --retention retention.yaml --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) > 0) == (o.retention != "") {
				return fmt.Errorf("%w: name entries, or a file of rules with --retention", errUsage)
			}
			if o.reason != "" && o.retention != "" {
				return fmt.Errorf("%w: --reason is for named entries: each rule of --retention has its own", errUsage)
			}
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			return withCustodian(cmd.Context(), c, func(db database, l *ledger.Ledger, custodian *registrar.Custodian) error {
				return o.run(cmd.Context(), p, c, args, db, l, custodian)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.reason, "reason", "", "why; kept in the ledger, and recorded on the log")
	f.StringVar(&o.retention, "retention", "", "file of rules: purge what they let go")
	f.BoolVar(&o.dryRun, "dry-run", false, "list what would be purged, and purge nothing")
	f.BoolVar(&o.noStatement, "no-statement", false, "record nothing on the log now: scittd evidence record does so later")
	addOperatorFlags(cmd, &o.service, &o.tokenFile)
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

func evidenceRecord(p process) *cobra.Command {
	var dir, file, service, tokenFile string
	cmd := &cobra.Command{
		Use:   "record",
		Short: "Record purges on the log that no statement tells of yet",
		Long: `Sign what was purged and is not on the log yet with the operator key, and register
it with the running service: purges by the API, by deletion through the registry, or
with --no-statement.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			o, err := asOperator(c, service, tokenFile)
			if err != nil {
				return err
			}
			return withCustodian(cmd.Context(), c, func(db database, l *ledger.Ledger, _ *registrar.Custodian) error {
				return recordPurges(cmd.Context(), p, o, db, l)
			})
		},
	}
	addOperatorFlags(cmd, &service, &tokenFile)
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// withCustodian runs work on the log of a service that may be running: it marks,
// and the service removes.
func withCustodian(ctx context.Context, c Config, work func(database, *ledger.Ledger, *registrar.Custodian) error) error {
	db, err := openBeside(ctx, c)
	if err != nil {
		return err
	}
	l, err := ledger.Open(ctx, db, ledger.Options{})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	custodian := registrar.NewCustodian(l, db, nil, registrar.CustodianOptions{Registry: c.registryHost()})
	return errors.Join(work(db, l, custodian), l.Close(ctx), db.Close())
}

// purged is one line of what a purge does.
type purged struct {
	entry  ledger.Entry
	size   int64
	places []ledger.Place
	more   int    // entries that speak of the same bytes
	held   string // repository that keeps it, though the rule would let it go
	rule   string
	reason string
}

func (o *purging) run(ctx context.Context, p process, c Config, args []string, db database, l *ledger.Ledger, custodian *registrar.Custodian) error {
	var speaker *operator
	if !o.dryRun && !o.noStatement {
		// Asked for before anything is purged.
		var err error
		speaker, err = asOperator(c, o.service, o.tokenFile)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w\nTry:   --no-statement, and scittd evidence record where the operator key is", errConfig, err)
		}
		if err == nil {
			err = speaker.mayRecord(ctx)
		}
		if err != nil {
			return err
		}
	}
	goes, err := o.choose(ctx, args, l, db, custodian)
	if err != nil {
		return err
	}
	goes = slices.DeleteFunc(goes, func(g purged) bool {
		if g.held != "" {
			fmt.Fprintf(p.stderr, "kept: %s of entry %s, which rule %s would let go: it is in %s, too, which the rule does not cover\n", g.entry.Evidence, g.entry.ID, g.rule, g.held)
		}
		return g.held != ""
	})
	var bytes int64
	inside := 0
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ENTRY\tEVIDENCE\tBYTES\tTYPE\tPLACES\tSHARED BY\tRULE")
	for _, g := range goes {
		bytes += g.size
		attached, err := isAttached(ctx, l, g.entry.ID)
		if err != nil {
			return err
		}
		if attached {
			inside++
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%d\t%s\n", g.entry.ID, g.entry.Evidence, g.size, g.entry.MediaType, len(g.places), g.more, g.rule)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if inside > 0 {
		fmt.Fprintf(p.stderr, "warning: %d of them lie inside their statements, too, which the log keeps and shows: what may have to go is signed with --hash-envelope always\n", inside)
	}
	if o.dryRun {
		fmt.Fprintf(p.stdout, "Would purge  %d pieces of evidence, %d bytes\n", len(goes), bytes)
		return nil
	}
	for _, g := range goes {
		if err := custodian.Purge(ctx, g.entry.ID, ledger.All, operatorName(p), g.reason); err != nil {
			return fmt.Errorf("purge the evidence of entry %s: %w", g.entry.ID, err)
		}
	}
	fmt.Fprintf(p.stdout, "Purged       %d pieces of evidence, %d bytes; the running service removes them from the registry\n", len(goes), bytes)
	if speaker == nil {
		return nil
	}
	if err := recordPurges(ctx, p, speaker, db, l); err != nil {
		return fmt.Errorf("it is purged, but not recorded on the log: %w\nTry:   scittd evidence record", err)
	}
	return nil
}

// mayRecord asks the service whether it would take a purge statement from this key
// and this token. What is purged cannot be had back, and so this comes first.
func (o *operator) mayRecord(ctx context.Context) error {
	refuse := func(err error) error {
		return fmt.Errorf("nothing is purged, for it could not be recorded on the log: %w\nTry:   --token-file with a token of scope publish, or --no-statement, and scittd evidence record later", err)
	}
	payload, err := json.Marshal(purgeStatement{Type: "https://in-toto.io/Statement/v1", Subject: []purgeSubject{}, PredicateType: purgePredicate})
	if err != nil {
		return err
	}
	signed, err := signOperator(o.key, o.config.URL, policy.PurgeSubject, policy.PurgeMediaType, payload)
	if err != nil {
		return err
	}
	// To name the evidence takes a caller who may publish.
	judged, err := o.service.Validate(ctx, signed.Canonical(), client.Beside{Evidence: signed.Evidence()})
	if err != nil {
		return refuse(err)
	}
	if judged.Decision != "allow" {
		return refuse(fmt.Errorf("%s (%s)", judged.Reason, judged.Code))
	}
	return nil
}

// isAttached says whether an entry's statement carries its evidence.
func isAttached(ctx context.Context, l *ledger.Ledger, id statement.ID) (bool, error) {
	record, err := l.Record(ctx, id, ledger.All)
	if err != nil {
		return false, err
	}
	s, err := statement.Parse(record.Canonical)
	if err != nil {
		return false, fmt.Errorf("read entry %s back: %w", id, err)
	}
	return s.Attached(), nil
}

// operatorName is who purges by the command line, as far as it says.
func operatorName(p process) string {
	if user := p.env("USER"); user != "" {
		return "operator " + user
	}
	return "operator"
}

// choose finds the evidence that is to go, each piece once.
func (o *purging) choose(ctx context.Context, args []string, l *ledger.Ledger, db database, custodian *registrar.Custodian) ([]purged, error) {
	var goes []purged
	if o.retention != "" {
		rules, err := readRetention(o.retention)
		if err != nil {
			return nil, fmt.Errorf("%w: --retention: %w", errConfig, err)
		}
		err = custodian.Expired(ctx, rules, time.Now(), func(e registrar.Expiry) error {
			goes = append(goes, purged{entry: e.Entry, size: e.Size, places: e.Places, more: e.Sharing, held: e.HeldBy, rule: e.Rule.Name, reason: e.Rule.Reason})
			return nil
		})
		return goes, err
	}
	seen := map[statement.Digest]bool{}
	for _, arg := range args {
		id, err := statement.ParseID(arg)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		e, err := l.Entry(ctx, id, ledger.All)
		if err != nil {
			return nil, err
		}
		if e.Evidence == "" {
			return nil, fmt.Errorf("entry %s speaks of no evidence", id)
		}
		if seen[e.Evidence] {
			continue
		}
		seen[e.Evidence] = true
		g := purged{entry: e, reason: o.reason, rule: "-"}
		shared, err := db.Find(ctx, ledger.Query{Scope: ledger.All, Evidence: []statement.Digest{e.Evidence}, Limit: ledger.MaxPage})
		if err != nil {
			return nil, err
		}
		g.more = len(shared) - 1
		for _, s := range shared {
			deliveries, err := l.Deliveries(ctx, s.ID, ledger.All)
			if err != nil {
				return nil, err
			}
			for _, d := range deliveries {
				if d.Artifact == ledger.EvidenceArtifact && d.State == ledger.Done {
					g.size, g.places = max(g.size, d.Size), append(g.places, d.Place())
				}
			}
		}
		goes = append(goes, g)
	}
	return goes, nil
}

// purgePredicate is the predicate type of a purge statement.
const purgePredicate = "https://github.com/scittd/scittd/purge/v1"

// purgeStatement is the payload of a purge statement: an in-toto Statement about
// the evidence and the images that it was about, so that who asks for either
// finds it.
type purgeStatement struct {
	Type          string         `json:"_type"`
	Subject       []purgeSubject `json:"subject"`
	PredicateType string         `json:"predicateType"`
	Predicate     struct {
		Purged []purgedEvidence `json:"purged"`
	} `json:"predicate"`
}

type purgeSubject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// purgedEvidence is what is said of one entry; of a private one, that it was
// purged.
type purgedEvidence struct {
	Entry     string   `json:"entry"`
	Evidence  string   `json:"evidence,omitempty"`
	Size      int64    `json:"size,omitempty"`
	MediaType string   `json:"mediaType,omitempty"`
	PurgedAt  string   `json:"purgedAt"`
	Reason    string   `json:"reason,omitempty"`
	From      []string `json:"from,omitempty"` // where, unless it was purged everywhere
}

// add takes in what became of one entry's evidence.
func (s *purgeStatement) add(e ledger.Entry, absences []ledger.Absence) {
	whole := absences[0]
	item := purgedEvidence{Entry: e.ID.String(), PurgedAt: whole.At.UTC().Format(time.RFC3339)}
	if !e.Private {
		item.Evidence, item.Size, item.MediaType, item.Reason = string(e.Evidence), whole.Size, e.MediaType, whole.Why
		for _, a := range absences {
			if whole.Place != (ledger.Place{}) {
				item.From = append(item.From, path.Join(a.Registry, a.Repository)+"@"+string(a.Subject))
			}
		}
		s.about("evidence", e.Evidence)
		for _, d := range e.Artifacts {
			s.about("artifact", d)
		}
	}
	s.Predicate.Purged = append(s.Predicate.Purged, item)
}

func (s *purgeStatement) about(name string, d statement.Digest) {
	// An entry of many artifacts is found by its evidence.
	if len(s.Subject) < statement.MaxArtifacts {
		s.Subject = append(s.Subject, purgeSubject{name, map[string]string{d.Algorithm(): fmt.Sprintf("%x", d.Bytes())}})
	}
}

// perStatement is of how many entries one purge statement tells at most.
const perStatement = 100

// recordPurges registers statements about all that was purged and is not on the
// log yet. Repeated after a crash it makes the same statements, and so the same
// entries.
func recordPurges(ctx context.Context, p process, o *operator, db database, l *ledger.Ledger) error {
	for above := int64(-1); ; {
		absences, err := db.Unrecorded(ctx, above, perStatement)
		if err != nil || len(absences) == 0 {
			return err
		}
		s := purgeStatement{Type: "https://in-toto.io/Statement/v1", Subject: []purgeSubject{}, PredicateType: purgePredicate}
		var told []uint64
		for begin, end := 0, 0; begin < len(absences); begin = end {
			for end = begin; end < len(absences) && absences[end].Entry == absences[begin].Entry; end++ {
			}
			e, err := l.Entry(ctx, absences[begin].EntryID, ledger.All)
			if err != nil {
				return err
			}
			if len(told) > 0 && len(s.Subject)+1+len(e.Artifacts) > statement.MaxArtifacts {
				break
			}
			s.add(e, absences[begin:end])
			told, above = append(told, e.Index), int64(e.Index)
		}
		payload, err := json.Marshal(s)
		if err != nil {
			return err
		}
		entry, err := o.register(ctx, policy.PurgeSubject, policy.PurgeMediaType, payload)
		if err != nil {
			return err
		}
		if err := db.Recorded(ctx, told, entry); err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "Recorded     %d entries in entry %s\n", len(told), entry)
	}
}
