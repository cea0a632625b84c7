package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/internal/cose"
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
			if service == "" {
				service = c.URL
			}
			var token string
			if tokenFile != "" {
				text, err := readSecret(tokenFile)
				if err != nil {
					return err
				}
				token = strings.TrimSpace(string(text))
			}
			entry, err := publish(cmd.Context(), c, args[0], service, token)
			if err != nil {
				return err
			}
			fmt.Fprintf(p.stdout, "Policy in force: entry %s\n", entry)
			return nil
		},
	}
	cmd.Flags().StringVar(&service, "service", "", "URL the service answers at (default: its public URL)")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with a token of scope publish, 0600")
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// publish registers the policy in file with the service and returns its entry.
func publish(ctx context.Context, c Config, file, serviceURL, token string) (statement.ID, error) {
	var none statement.ID
	next, err := policy.ReadYAML(file)
	if err != nil {
		return none, fmt.Errorf("%w: %w", errConfig, err)
	}
	pem, err := readSecret(c.Keys.Operator)
	if err != nil {
		return none, fmt.Errorf("operator key: %w", err)
	}
	operator, err := cose.ParsePrivatePEM(pem)
	if err != nil {
		return none, fmt.Errorf("operator key %s: %w", c.Keys.Operator, err)
	}
	service, err := client.New(serviceURL, client.Options{Token: token, UserAgent: "scittd/" + version()})
	if err != nil {
		return none, err
	}
	facts, err := service.Service(ctx)
	if err != nil {
		return none, err
	}
	inForce, err := statement.ParseID(facts.PolicyEntry)
	if err != nil {
		return none, fmt.Errorf("%s names no policy in force: %w", serviceURL, err)
	}
	if next.Previous != nil && *next.Previous != inForce {
		return none, fmt.Errorf("%w: %s replaces policy %s, but %s is in force: review that one, then set previous to null or to its entry", errConfig, file, *next.Previous, inForce)
	}
	next.Previous = &inForce
	text, err := next.JSON()
	if err != nil {
		return none, err
	}
	signed, err := signOperator(operator, c.URL, policy.StatementSubject, policy.MediaType, text)
	if err != nil {
		return none, err
	}
	done, err := service.Register(ctx, signed.Canonical(), "")
	if err != nil {
		return none, err
	}
	if done.EntryID != signed.ID() {
		return none, errors.New("the service registered something else: " + done.EntryID.String())
	}
	return done.EntryID, nil
}
