package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
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

func policyRefusals(p process) *cobra.Command {
	var dir, file, service, tokenFile, since, format string
	var limit int
	cmd := &cobra.Command{
		Use:   "refusals",
		Short: "Say how often which rule refused whom, and what would have satisfied it",
		Long: `List what was refused, the most frequent first: by rule, policy and issuer, with what
the last one was told. The issuer is what the statements say of their signer, whom
nobody has verified, and not the caller who sent them. Statements are not kept.

The counts are written every ten seconds; those of a process that was killed are lost
since then. They are read in the database or, with --service, from the service, which
shows them to a token of scope read.`,
		Example: "  scittd policy refusals --since 24h\n  scittd policy refusals --service https://scitt.example --token-file token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("%w: --format %q is none of text, json", errUsage, format)
			}
			if limit < 1 || limit > ledger.MaxPage {
				return fmt.Errorf("%w: --limit %d is not within 1..%d", errUsage, limit, ledger.MaxPage)
			}
			from, err := moment(since, time.Now())
			if err != nil {
				return fmt.Errorf("%w: --since: %w", errUsage, err)
			}
			show := func(list apitype.RefusalCounts) error {
				if format == "json" {
					return printJSON(p.stdout, list)
				}
				return printRefusals(p.stdout, list.Refusals)
			}
			if service != "" {
				if dir != "" || file != "" {
					return fmt.Errorf("%w: --service excludes --dir and --config", errUsage)
				}
				list, err := servedRefusals(cmd.Context(), service, tokenFile, from, limit)
				if err != nil {
					return err
				}
				return show(list)
			}
			if tokenFile != "" {
				return fmt.Errorf("%w: --token-file is for --service", errUsage)
			}
			return withDatabase(cmd, p, dir, file, func(db database) error {
				found, err := db.CountedRefusals(cmd.Context(), from, limit)
				if err != nil {
					return err
				}
				return show(api.DescribeRefusalCounts(found))
			})
		},
	}
	cmd.Flags().StringVar(&service, "service", "", "ask the service at this URL (default: read the database of --dir or --config)")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with a token of scope read, for --service")
	cmd.Flags().StringVar(&since, "since", "", "only what was refused since: 24h ago, or a time such as 2026-11-03T09:12:44Z")
	cmd.Flags().IntVar(&limit, "limit", 100, "list at most so many")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// servedRefusals are those that a service counted.
func servedRefusals(ctx context.Context, service, tokenFile string, since time.Time, limit int) (list apitype.RefusalCounts, err error) {
	token, err := readToken(tokenFile)
	if err != nil {
		return list, err
	}
	c, err := client.New(service, client.Options{Token: token, UserAgent: "scittd/" + version()})
	if err != nil {
		return list, fmt.Errorf("%w: %w", errUsage, err)
	}
	list, err = c.Refusals(ctx, since, limit)
	if p := (*client.Problem)(nil); errors.As(err, &p) && (p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden) {
		err = fmt.Errorf("%w: %w\nTry:   --token-file, with a token of scope read", errToken, err)
	}
	return list, err
}

// moment reads a time, or how long before now it was; "" is the zero time.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("%q is neither a time such as 2026-11-03T09:12:44Z nor a duration such as 24h", text)
	}
	return at, nil
}

func printRefusals(w io.Writer, all []apitype.RefusalCount) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "Nothing was refused.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "COUNT\tLAST\tCODE\tRULE\tISSUER\tREASON\tHINT")
	for _, r := range all {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%q\t%q\t%q\n", r.Count, r.Last.Format(time.RFC3339), r.Code, dash(r.Rule), r.Issuer, r.Reason, r.Hint)
	}
	return table.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// noteRefusal counts what was refused, s or what is no statement.
func (s *service) noteRefusal(refused *statement.Statement, why error) {
	var refusal *policy.Refusal
	issuer := ""
	if refused != nil {
		issuer = refused.Issuer
	}
	if !errors.As(why, &refusal) {
		code, status := api.Code(why)
		if status < 400 || status > 499 {
			return // not a refusal: something was away
		}
		refusal = &policy.Refusal{Code: code, Reason: why.Error()}
	}
	s.refusals.Count(refusal, issuer, time.Now())
}

// refusalMetrics shows what this process refused. The only label is a code of the
// problem table.
func (s *service) refusalMetrics(w io.Writer) {
	const name = "scittd_refusals_total"
	heading(w, name, "counter", "Statements that were refused, by the code of the answer.")
	codes := s.refusals.Codes()
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		fmt.Fprintf(w, "%s{code=%q} %d\n", name, code, codes[code])
	}
}
