package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

func registryRefusals(p process) *cobra.Command {
	var dir, file, repository, image, format string
	var limit int
	cmd := &cobra.Command{
		Use:   "refusals",
		Short: "List pushed statements that are stored in the registry and were not registered",
		Long: `List statements that clients pushed through this service, that the registry took
and the policy refused (push_through: observe), newest first. One that is
registered later is not listed any more. GET /v1/refusals shows the same.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("%w: --format %q is none of text, json", errUsage, format)
			}
			if limit < 1 || limit > ledger.MaxPage {
				return fmt.Errorf("%w: --limit is one number from 1 to %d", errUsage, ledger.MaxPage)
			}
			var subject statement.Digest
			if image != "" {
				var err error
				if subject, err = statement.ParseDigest(image); err != nil {
					return fmt.Errorf("%w: --subject: %w", errUsage, err)
				}
			}
			return withDatabase(cmd, p, dir, file, func(db database) error {
				found, err := db.FindRefusals(cmd.Context(), repository, subject, limit)
				if err != nil {
					return err
				}
				if format == "json" {
					return printJSON(p.stdout, api.DescribeRefusals(found))
				}
				table := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
				for _, r := range found {
					fmt.Fprintf(table, "%s\t%s@%s\t%s\t%q\t%s\t%s: %s\n", r.At.UTC().Format(time.RFC3339), r.Repository, r.Image, r.Manifest, r.Issuer, r.Caller, r.Code, r.Reason)
				}
				return table.Flush()
			})
		},
	}
	cmd.Flags().StringVar(&repository, "repository", "", "only of this repository")
	cmd.Flags().StringVar(&image, "subject", "", "only of the image of this digest")
	cmd.Flags().IntVar(&limit, "limit", 100, fmt.Sprintf("at most so many, up to %d", ledger.MaxPage))
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	addLocationFlags(cmd, &dir, &file)
	return cmd
}
