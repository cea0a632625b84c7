package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func policyCommand(p process) *cobra.Command {
	return group("policy", "Check and publish registration policies", policyLint(p), policyPublish(p))
}

func policyLint(p process) *cobra.Command {
	return &cobra.Command{
		Use: "lint FILE", Short: "Read a policy as publish would, and say what is questionable", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			read, err := policy.ReadYAML(args[0])
			if err != nil {
				return fmt.Errorf("%w: %w", errConfig, err)
			}
			findings := read.Lint()
			for _, finding := range findings {
				fmt.Fprintf(p.stdout, "warning: %s\n", finding)
			}
			fmt.Fprintf(p.stdout, "%s: valid, %d warnings\n", args[0], len(findings))
			return nil
		},
	}
}

func policyPublish(p process) *cobra.Command {
	var dir, file, service, tokenFile string
	cmd := &cobra.Command{
		Use:   "publish FILE",
		Short: "Sign a policy with the operator key and register it; it is in force from its entry on",
		Long: `Sign a policy with the operator key and register it with the running service.
It names the policy in force as its predecessor and takes effect from its own
entry on, also for what is queued. What is registered keeps its receipt.`,
		Example: "  scittd policy publish policy.yaml --dir /var/lib/scittd --token-file token",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			next, err := policy.ReadYAML(args[0])
			if err != nil {
				return fmt.Errorf("%w: %w", errConfig, err)
			}
			o, err := asOperator(c, service, tokenFile)
			if err != nil {
				return err
			}
			entry, err := o.publish(cmd.Context(), next, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, "Policy in force: entry %s\n", entry)
			return nil
		},
	}
	addOperatorFlags(cmd, &service, &tokenFile)
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// publish registers the policy that was read from file, and returns its entry.
func (o *operator) publish(ctx context.Context, next *policy.Policy, file string) (statement.ID, error) {
	var none statement.ID
	facts, err := o.service.Service(ctx)
	if err != nil {
		return none, err
	}
	inForce, err := statement.ParseID(facts.PolicyEntry)
	if err != nil {
		return none, fmt.Errorf("%s names no policy in force: %w", o.service.URL(), err)
	}
	if next.Previous != nil && *next.Previous != inForce {
		return none, fmt.Errorf("%w: %s replaces policy %s, but %s is in force: review that one, then set previous to null or to its entry", errConfig, file, *next.Previous, inForce)
	}
	next.Previous = &inForce
	text, err := next.JSON()
	if err != nil {
		return none, err
	}
	return o.register(ctx, policy.StatementSubject, policy.MediaType, text)
}
