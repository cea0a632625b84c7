package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func policyExplain(p process) *cobra.Command {
	var file, service, tokenFile, at, payload string
	var ask lookups
	cmd := &cobra.Command{
		Use:   "explain STATEMENT",
		Short: "Tell every rule of a policy, what it looks at in a statement, and what it says",
		Long: `Judge a statement by every rule of a policy and tell all of them, also those behind
the first that refuses. STATEMENT is a file or, with --service, the ID of an entry,
whose decision is then explained as it was made: by the policy that was in force, at
its time, with the collateral that is kept.

A file that is registered already is explained as its entry.

With --policy nothing but the files is needed; rules about what is in the log are
named and not judged. With --service the policy in force there decides, and its log;
of an entry whose rule depends on entries that are not shown, that is said.

What issuers publish (did:web, keys) is looked up with --lookup only, from here.

Exit code 0: allow, or as recorded. 12: an entry is recorded otherwise. 16: a file
would be refused. 1: failed; retrying may help. 2: usage.`,
		Example: "  scittd policy explain sbom.cose --policy policy.yaml\n  scittd policy explain 67ed41f1… --service https://scitt.example",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (file == "") == (service == "") {
				return fmt.Errorf("%w: explain by --policy FILE or by --service URL", errUsage)
			}
			now := time.Now().UTC().Truncate(time.Second)
			if at != "" {
				var err error
				if now, err = time.Parse(time.RFC3339, at); err != nil {
					return fmt.Errorf("%w: --time %q is no time like 2026-11-21T12:00:00Z", errUsage, at)
				}
			}
			fetcher, err := ask.open(cmd, p)
			if err != nil {
				return err
			}
			if fetcher != nil {
				defer fetcher.Close()
			}
			if file != "" {
				read, err := policy.ReadYAML(file)
				if err != nil {
					return fmt.Errorf("%w: %w", errConfig, err)
				}
				s, err := said{Statement: args[0], Payload: payload}.statement()
				if err != nil {
					return err
				}
				brought, looked := lookUp(cmd.Context(), fetcher, read, s)
				d, steps := read.Explain(s, now, brought...)
				unasked(looked, steps)
				return explained{file: file, decision: d, refusal: d.Refusal, steps: append(looked, steps...), now: now}.print(p.stdout)
			}
			token, err := readToken(tokenFile)
			if err != nil {
				return err
			}
			c, err := client.New(service, client.Options{Token: token, UserAgent: "scittd/" + version()})
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			if id, err := statement.ParseID(args[0]); err == nil {
				if at != "" || fetcher != nil {
					return fmt.Errorf("%w: an entry was decided at its own time, by what was looked up then: without --time and --lookup", errUsage)
				}
				return explainEntry(cmd.Context(), c, id, p.stdout)
			}
			s, err := said{Statement: args[0], Payload: payload}.statement()
			if err != nil {
				return err
			}
			if _, err := c.Entry(cmd.Context(), s.ID()); err == nil && at == "" {
				return explainEntry(cmd.Context(), c, s.ID(), p.stdout)
			}
			inForce, err := c.Policy(cmd.Context())
			if err != nil {
				return err
			}
			by, err := policyAt(cmd.Context(), c, inForce)
			if err != nil {
				return err
			}
			brought, looked := lookUp(cmd.Context(), fetcher, by, s)
			e, err := explanation(cmd.Context(), by, s, now, brought, remoteLog{c, time.Time{}, 0})
			if err != nil {
				return err
			}
			unasked(looked, e.steps)
			e.steps = append(looked, e.steps...)
			return e.print(p.stdout)
		},
	}
	cmd.Flags().StringVar(&file, "policy", "", "policy `FILE` to judge by, offline")
	cmd.Flags().StringVar(&service, "service", "", "`URL` of the service whose policy judges")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with a token of scope read, where private entries matter")
	cmd.Flags().StringVar(&at, "time", "", "time of registration, as 2026-11-21T12:00:00Z (default: now)")
	cmd.Flags().StringVar(&payload, "payload", "", "`FILE` with the payload of a detached statement")
	ask.flags(cmd)
	return cmd
}

// explained is what there is to print.
type explained struct {
	file     string // of the policy; "" when it is an entry's
	entry    statement.ID
	decision policy.Decision
	refusal  *policy.Refusal
	steps    []policy.Step
	now      time.Time
	recorded *apitype.Entry // of an entry
	hidden   bool           // what the log refuses may rest on an entry that is not shown
}

func (e explained) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range e.steps {
		place := ""
		if line := policy.Line(e.file, s.Rule); e.file != "" && line > 0 {
			place = fmt.Sprintf("  %s:%d", e.file, line)
		}
		fmt.Fprintf(table, "%s\t%s\t%s%s\n", s.Rule, s.Outcome, s.Input, place)
		if s.Refusal != nil {
			fmt.Fprintf(table, "\t\t%s (%s)\n", s.Refusal.Reason, s.Refusal.Rule)
			fmt.Fprintf(table, "\t\twant: %s\n", s.Refusal.Hint)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	by := e.file
	if e.file == "" {
		by = "policy " + e.entry.String()
	}
	switch {
	case e.hidden:
		fmt.Fprintf(out, "\nNOT JUDGED   %s depends on entries that are not shown: needs a token of scope read (--token-file)\n", e.refusal.Rule)
		return nil
	case e.refusal != nil:
		fmt.Fprintf(out, "\ndeny   rule %s, by %s at %s\n", e.refusal.Rule, by, e.now.Format(time.RFC3339))
	case e.decision.Conditional && e.file != "":
		fmt.Fprintf(out, "\nallow  rule %s, by %s at %s, if the log agrees\n", e.decision.Rule, by, e.now.Format(time.RFC3339))
	default:
		fmt.Fprintf(out, "\nallow  rule %s, by %s at %s\n", e.decision.Rule, by, e.now.Format(time.RFC3339))
	}
	switch r := e.recorded; {
	case r == nil && e.refusal != nil:
		return fmt.Errorf("%w: rule %s", errRefused, e.refusal.Rule)
	case r == nil:
		return nil
	case e.refusal != nil || r.Policy.Rule != e.decision.Rule || !sameIdentity(*r, e.decision.Identity):
		return fmt.Errorf("%w: recorded is rule %s, issuer %q, %s %s %q\nTry:   scittd audit --replay", errDeviates,
			r.Policy.Rule, r.Identity.Issuer, r.Identity.Kind, r.Identity.Thumbprint, r.Identity.Name)
	default:
		fmt.Fprintf(out, "       as it is recorded of entry %s\n", r.EntryID)
		return nil
	}
}

// sameIdentity says whether id is recorded; names were not from the first version on.
func sameIdentity(r apitype.Entry, id policy.Identity) bool {
	return r.Identity.Issuer == id.Issuer && r.Identity.Kind == id.Kind && r.Identity.Thumbprint == id.Thumbprint &&
		(r.Identity.Name == "" || r.Identity.Name == id.Name)
}

// explanation judges by a policy of a service and by its log.
func explanation(ctx context.Context, p *policy.Policy, s *statement.Statement, now time.Time, with []policy.Material, log remoteLog) (explained, error) {
	e := explained{now: now}
	e.entry = p.Entry
	e.decision, e.steps = p.Explain(s, now, with...)
	e.refusal = e.decision.Refusal
	if e.refusal == nil && e.decision.Conditional {
		refusal, settled, err := p.ExplainSettle(ctx, s, e.decision, log)
		if err != nil {
			return e, err
		}
		e.refusal = refusal
		e.settle(settled)
	}
	for i := range e.steps {
		if e.steps[i].Outcome == policy.AskTheLog {
			e.steps[i].Outcome = policy.NotJudged
		}
	}
	return e, nil
}

// settle puts what the log says in the place of the steps that depend on it: the
// last of each name, where several issuers' rules were judged.
func (e *explained) settle(settled []policy.Step) {
	for _, s := range settled {
		for i := len(e.steps) - 1; i >= 0; i-- {
			if e.steps[i].Rule == s.Rule && e.steps[i].Outcome == policy.AskTheLog {
				e.steps[i] = s
				break
			}
		}
	}
}

// policyAt is the policy that a service describes, read from its statement.
func policyAt(ctx context.Context, c *client.Client, by apitype.Policy) (*policy.Policy, error) {
	id, err := statement.ParseID(by.Entry)
	if err != nil {
		return nil, fmt.Errorf("%s describes a policy of a malformed id: %w", c.URL(), err)
	}
	b, err := c.Statement(ctx, id)
	if err != nil {
		return nil, err
	}
	s, err := statement.Parse(b)
	if err != nil {
		return nil, err
	}
	return policy.FromStatement(s)
}

// explainEntry explains a decision as it was made.
func explainEntry(ctx context.Context, c *client.Client, id statement.ID, out io.Writer) error {
	entry, err := c.Entry(ctx, id)
	if err != nil {
		return err
	}
	b, err := c.Statement(ctx, id)
	if err != nil {
		return err
	}
	s, err := statement.Parse(b)
	if err != nil {
		return err
	}
	kept, err := c.Collateral(ctx, id)
	if err != nil {
		return err
	}
	s, with, err := withCollateral(ctx, c, id, s, kept)
	if err != nil {
		return err
	}
	by, err := policyAt(ctx, c, apitype.Policy{Entry: entry.Policy.Entry})
	if err != nil {
		return err
	}
	e, err := explanation(ctx, by, s, entry.RegisteredAt, with, remoteLog{c, entry.RegisteredAt, entry.Index})
	if err != nil {
		return err
	}
	e.recorded = &entry
	if e.refusal != nil && e.decision.Refusal == nil {
		if e.hidden, err = hides(ctx, c, entry); err != nil {
			return err
		}
	}
	return e.print(out)
}

// withCollateral gives s what was kept of its decision, and what that was made
// over and is not kept, where the service still has it.
func withCollateral(ctx context.Context, c *client.Client, id statement.ID, s *statement.Statement, list apitype.CollateralList) (*statement.Statement, []policy.Material, error) {
	kept := make([]ledger.Collateral, len(list.Collateral))
	for i, k := range list.Collateral {
		kept[i] = ledger.Collateral{Kind: k.Kind, Data: k.Data}
	}
	s, with, err := ledger.Whole(s, kept)
	if err != nil {
		return nil, nil, fmt.Errorf("entry %s: %w", id, err)
	}
	evidence := func() ([]byte, error) {
		body, err := c.Evidence(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("what entry %s was decided over is not to be had: %w", id, err)
		}
		return body, nil
	}
	if !s.Verifiable() {
		body, err := evidence()
		if err != nil {
			return nil, nil, err
		}
		if s, err = s.WithPayload(s.Evidence(), body); err != nil {
			return nil, nil, fmt.Errorf("entry %s: %w", id, err)
		}
	}
	for i := range with {
		if with[i].Body != nil {
			continue
		}
		if with[i].Body, err = evidence(); err != nil {
			return nil, nil, err
		}
		if !statement.Digest(with[i].Source).Matches(with[i].Body) {
			return nil, nil, fmt.Errorf("entry %s: the service sends other evidence than %s", id, with[i].Source)
		}
	}
	return s, with, nil
}

// hides says whether a service shows less than all entries before this one.
func hides(ctx context.Context, c *client.Client, entry apitype.Entry) (bool, error) {
	query := client.Query{Limit: 500, Until: entry.RegisteredAt.Add(time.Second)}
	for shown := uint64(0); ; {
		page, err := c.Find(ctx, query)
		if err != nil {
			return false, err
		}
		for _, e := range page.Entries {
			if e.Index < entry.Index {
				shown++
			}
		}
		if query.Cursor = page.Next; query.Cursor == "" {
			return shown < entry.Index, nil
		}
	}
}

// remoteLog answers about a service's log below an entry, as far as it shows it
// to the caller; with no time and index, about all of it.
type remoteLog struct {
	c      *client.Client
	until  time.Time
	before uint64
}

func (l remoteLog) Past(ctx context.Context, q policy.PastQuery, limit int) ([]policy.Past, error) {
	query := client.Query{Limit: 500}
	add := func(list *[]string, text string) {
		if text != "" {
			*list = append(*list, text)
		}
	}
	add(&query.Issuers, q.Issuer)
	add(&query.MediaTypes, q.MediaType)
	add(&query.PredicateTypes, q.PredicateType)
	if q.Artifact != "" {
		query.Artifacts = []statement.Digest{q.Artifact}
	}
	if q.Evidence != "" {
		query.Evidence = []statement.Digest{q.Evidence}
	}
	if !l.until.IsZero() {
		query.Until = l.until.Add(time.Second)
	}
	var found []policy.Past
	for {
		page, err := l.c.Find(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if !l.until.IsZero() && e.Index >= l.before || q.Subject != "" && e.Subject != q.Subject {
				continue
			}
			past, err := l.past(ctx, e)
			if err != nil {
				return nil, err
			}
			if found = append(found, past); len(found) == limit {
				return found, nil
			}
		}
		if query.Cursor = page.Next; query.Cursor == "" {
			return found, nil
		}
	}
}

func (l remoteLog) past(ctx context.Context, e apitype.Entry) (policy.Past, error) {
	id, err := statement.ParseID(e.EntryID)
	if err != nil {
		return policy.Past{}, err
	}
	b, err := l.c.Statement(ctx, id)
	if err != nil {
		return policy.Past{}, err
	}
	s, err := statement.Parse(b)
	return policy.Past{Index: e.Index, Private: e.Visibility == string(policy.Private), Statement: s}, err
}
