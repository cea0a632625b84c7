package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// policies are those of a log: as its database has them, or as a service says.
type policies interface {
	Policy(ctx context.Context) (apitype.Policy, error)
	PolicyOf(ctx context.Context, id statement.ID) (apitype.Policy, error)
	// Signed are all policy statements, the newest first.
	Signed(ctx context.Context) ([]statement.ID, error)
}

// served are the policies that a service shows.
type served struct{ *client.Client }

func (s served) Signed(ctx context.Context) ([]statement.ID, error) {
	var all []statement.ID
	for query := (client.Query{MediaTypes: []string{policy.MediaType}, Limit: 500}); ; {
		page, err := s.Find(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			id, err := statement.ParseID(e.EntryID)
			if err != nil {
				return nil, err
			}
			all = append(all, id)
		}
		if query.Cursor = page.Next; query.Cursor == "" {
			return all, nil
		}
	}
}

// logged are the policies of a log that is read here.
type logged struct{ *ledger.Ledger }

func (l logged) PolicyOf(ctx context.Context, id statement.ID) (apitype.Policy, error) {
	r, err := l.Ledger.PolicyOf(ctx, id)
	if err != nil {
		return apitype.Policy{}, err
	}
	return api.DescribePolicy(r)
}

func (l logged) Signed(ctx context.Context) ([]statement.ID, error) {
	var all []statement.ID
	query := ledger.Query{Scope: ledger.Public, MediaTypes: []string{policy.MediaType}, Limit: ledger.MaxPage}
	for {
		page, err := l.Find(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			all = append(all, e.ID)
		}
		if len(page) < query.Limit || page[len(page)-1].Index == 0 {
			return all, nil
		}
		query.Before = page[len(page)-1].Index
	}
}

func (l logged) Policy(ctx context.Context) (apitype.Policy, error) {
	shown, err := l.PolicyOf(ctx, l.Ledger.Policy().Entry)
	if err != nil {
		return shown, err
	}
	proposals, err := l.Proposals(ctx)
	for _, p := range proposals {
		proposed, err := api.DescribePolicy(p)
		if err != nil {
			return shown, err
		}
		shown.Proposed = append(shown.Proposed, proposed)
	}
	return shown, err
}

// whence is where policies are read.
type whence struct{ dir, file, service string }

func (w *whence) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.service, "service", "", "ask the service at this URL (default: read the database of --dir or --config)")
	addLocationFlags(cmd, &w.dir, &w.file)
}

// with runs work on them.
func (w *whence) with(cmd *cobra.Command, p process, work func(policies) error) error {
	if w.service != "" {
		if w.dir != "" || w.file != "" {
			return fmt.Errorf("%w: --service excludes --dir and --config", errUsage)
		}
		c, err := client.New(w.service, client.Options{UserAgent: "scittd/" + version()})
		if err != nil {
			return err
		}
		return work(served{c})
	}
	return withDatabase(cmd, p, w.dir, w.file, func(db database) error {
		l, err := ledger.Open(cmd.Context(), db, ledger.Options{})
		if err != nil {
			return err
		}
		return errors.Join(work(logged{l}), l.Close(cmd.Context()))
	})
}

func policyHistory(p process) *cobra.Command {
	var from whence
	var format string
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the policies that were in force or signed in vain, and what waits for another operator",
		Long: `List every policy that was in force, the newest first: its entry, from when on, and
which operators signed it; and before them what operators have signed that others
have yet to, or it takes no effect. Void is what they signed in vain: another policy
came into force before. What lies behind a policy's entry in the log was judged by it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("%w: --format %q is none of text, json", errUsage, format)
			}
			return from.with(cmd, p, func(log policies) error {
				all, err := history(cmd.Context(), log)
				if err != nil {
					return err
				}
				if format == "json" {
					return printJSON(p.stdout, struct {
						Policies []apitype.Policy `json:"policies"`
					}{all})
				}
				return printHistory(p.stdout, all)
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	from.flags(cmd)
	return cmd
}

// history is what was proposed, then every policy from the one in force back to
// the first, and between these what was signed in vain.
func history(ctx context.Context, log policies) ([]apitype.Policy, error) {
	all, err := reigned(ctx, log)
	if err != nil {
		return nil, err
	}
	told := map[string]bool{}
	tell := func(p apitype.Policy) {
		for _, s := range p.Signers {
			told[s.Entry] = true
		}
	}
	for _, p := range all {
		tell(p)
	}
	proposed := slices.IndexFunc(all, func(p apitype.Policy) bool { return p.State != "proposed" })
	signed, err := log.Signed(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range signed {
		if told[id.String()] {
			continue
		}
		p, err := log.PolicyOf(ctx, id)
		if err != nil {
			return nil, err
		}
		if p.State == lapsed {
			tell(p)
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all[max(0, proposed):], func(a, b apitype.Policy) int { return cmp.Compare(b.Index, a.Index) })
	return all, nil
}

// lapsed is how the API calls what is void.
const lapsed = "lapsed"

// reigned is what was proposed, and what was in force.
func reigned(ctx context.Context, log policies) ([]apitype.Policy, error) {
	at, err := log.Policy(ctx)
	if err != nil {
		return nil, err
	}
	all := at.Proposed
	at.Proposed = nil
	for {
		all = append(all, at)
		var document struct {
			Previous *statement.ID `json:"previous"`
		}
		if err := json.Unmarshal(at.Policy, &document); err != nil {
			return nil, fmt.Errorf("policy %s: %w", at.Entry, err)
		}
		if document.Previous == nil {
			return all, nil
		}
		before := at.Index
		if at, err = log.PolicyOf(ctx, *document.Previous); err != nil {
			return nil, err
		}
		if at.Index >= before {
			return nil, fmt.Errorf("%w: policy %s is said to stand at %d, and to be replaced by one at %d", errMisbehaved, plain(at.Entry), at.Index, before)
		}
	}
}

func printHistory(w io.Writer, all []apitype.Policy) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STATE\tINDEX\tENTRY\tFROM\tSIGNED BY")
	for _, p := range all {
		since := "-"
		if p.From != nil {
			since = p.From.Format(time.RFC3339)
		}
		var signed []string
		for _, s := range p.Signers {
			signed = append(signed, plain(s.Rule+" "+s.Thumbprint[:min(len(s.Thumbprint), 16)]))
		}
		by := strings.Join(signed, ", ")
		state := plain(p.State)
		if state == lapsed {
			state = "void"
		}
		if p.State == "proposed" || p.State == lapsed {
			by = fmt.Sprintf("%d of %d: %s", len(signed), p.Threshold, by)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", state, p.Index, plain(p.Entry), since, by)
	}
	return table.Flush()
}
