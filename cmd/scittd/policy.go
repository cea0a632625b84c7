package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

func policyCommand(p process) *cobra.Command {
	return group("policy", "Check, try, explain and publish registration policies", policyLint(p), policyTest(p), policyExplain(p), policyPublish(p), policyHistory(p), policyDiff(p), policyRefusals(p))
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
				at := args[0]
				place, _, _ := strings.Cut(finding, ": ")
				if line := policy.Line(args[0], place); line > 0 {
					at = fmt.Sprintf("%s:%d", at, line)
				}
				fmt.Fprintf(p.stdout, "warning: %s (%s)\n", finding, at)
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
entry on, also for what is queued. What is registered keeps its receipt.

Where the policy in force has a threshold above 1, as many of its operators have to
publish the same file before it takes effect; until then each entry is a signature and
no more. A policy that comes into force in between makes those signatures void.

With --service and --keys-operator it needs nothing of the service's own machine.

Exit code 16: the policy in force refuses it. 4: the token is missing or does not
suffice. 1: failed; retrying may help. 2: usage or the file.`,
		Example: `  scittd policy publish policy.yaml --dir /var/lib/scittd --token-file token
  scittd policy publish policy.yaml --service https://scitt.example --keys-operator second.pem --token-file token`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := publishConfig(cmd, p, dir, file, service)
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
			published, err := o.service.PolicyOf(cmd.Context(), entry)
			if err != nil {
				return fmt.Errorf("registered as entry %s, but not read back: %w", entry, err)
			}
			switch signed := len(published.Signers); published.State {
			case "proposed":
				fmt.Fprintf(p.stdout, "Signed %d of %d; it takes effect when another operator publishes the same file\nEntry           %s\n", signed, published.Threshold, entry)
			default:
				fmt.Fprintf(p.stdout, "Policy in force: entry %s\n", entry)
			}
			return nil
		},
	}
	addOperatorFlags(cmd, &service, &tokenFile)
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// publishConfig is the configuration of the log in dir or file; where there is none,
// no more than the key of an operator who publishes from elsewhere. Its URL is then
// what --url says, else "": the service's own word.
func publishConfig(cmd *cobra.Command, p process, dir, file, service string) (Config, error) {
	if service == "" || dir != "" || file != "" {
		return serveConfig(cmd, p, dir, file)
	}
	if _, err := os.Stat(filepath.Join(defaultFolder, configName)); err == nil {
		return serveConfig(cmd, p, dir, file)
	}
	c, err := loadConfig("", p.env, cmd.Flags())
	if err != nil {
		return c, fmt.Errorf("%w: %w", errConfig, err)
	}
	if c.Keys.Operator == "" {
		return c, fmt.Errorf("%w: there is no operator key: name its file\nTry:   %s FILE --service %s --keys-operator operator.pem --token-file token", errUsage, cmd.CommandPath(), service)
	}
	if !cmd.Flags().Changed("url") && p.env("SCITTD_URL") == "" {
		c.URL = ""
	}
	return c, nil
}

// publish registers the policy that was read from file, and returns its entry.
func (o *operator) publish(ctx context.Context, next *policy.Policy, file string) (statement.ID, error) {
	var none statement.ID
	facts, err := o.service.Service(ctx)
	if err != nil {
		return none, err
	}
	// What is signed here for one service must be good for no other.
	if o.config.URL == "" {
		if asked := o.service.URL(); facts.URL != asked {
			return none, fmt.Errorf("%w: the service at %s calls itself %s: if that is the one to sign a policy of, add --url %[3]s", errConfig, asked, plain(facts.URL))
		}
		o.config.URL = facts.URL
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
