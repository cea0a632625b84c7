package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// currentPolicy names the policy in force where an entry is expected.
const currentPolicy = "current"

func policyDiff(p process) *cobra.Command {
	var from whence
	var format string
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Say in which members two policies differ",
		Long: `Compare two policies member by member: A and B are entries, the word current for
the policy in force, or files as publish reads them. Elements of lists are told apart
by what names them, not by where they stand. + is only in B, - only in A, ~ in both.`,
		Example: "  scittd policy diff current policy.yaml\n  scittd policy diff 67ed41f1... current --service https://scitt.example",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("%w: --format %q is none of text, json", errUsage, format)
			}
			pair, err := readPolicies(cmd, p, from, args)
			if err != nil {
				return err
			}
			found, err := policy.Diff(pair[0], pair[1])
			if err != nil {
				return err
			}
			if format == "json" {
				return printJSON(p.stdout, struct {
					Differences []policy.Difference `json:"differences"`
				}{append([]policy.Difference{}, found...)})
			}
			for _, d := range found {
				fmt.Fprintln(p.stdout, d)
			}
			if len(found) == 0 {
				fmt.Fprintln(p.stdout, "Both say the same.")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	from.flags(cmd)
	return cmd
}

// readPolicies reads what names stand for. The log is opened only where it is
// asked.
func readPolicies(cmd *cobra.Command, p process, from whence, names []string) ([]*policy.Policy, error) {
	read := make([]*policy.Policy, len(names))
	ask := false
	for i, name := range names {
		if _, err := statement.ParseID(name); err == nil || name == currentPolicy {
			ask = true
			continue
		}
		var err error
		if read[i], err = policy.ReadYAML(name); err != nil {
			return nil, fmt.Errorf("%w: %w", errConfig, err)
		}
	}
	if !ask {
		return read, nil
	}
	return read, from.with(cmd, p, func(log policies) error {
		for i, name := range names {
			if read[i] != nil {
				continue
			}
			var err error
			if read[i], err = loggedPolicy(cmd.Context(), log, name); err != nil {
				return fmt.Errorf("policy %s: %w", name, err)
			}
		}
		return nil
	})
}

func loggedPolicy(ctx context.Context, log policies, name string) (*policy.Policy, error) {
	var shown apitype.Policy
	id, err := statement.ParseID(name)
	if err != nil {
		shown, err = log.Policy(ctx)
	} else {
		shown, err = log.PolicyOf(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	return policy.Parse(shown.Policy)
}
