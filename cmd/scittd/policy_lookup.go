package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/internal/fetch"
	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// lookups is what an explanation may ask the network for.
type lookups struct {
	on        bool
	dir, file string
}

func (l *lookups) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&l.on, "lookup", false, "fetch what issuers publish, as a service does: with the lookup settings of --dir or --config, which imply this, or of flags")
	addLocationFlags(cmd, &l.dir, &l.file)
	for _, name := range []string{"lookup-hosts", "lookup-private-hosts", "lookup-ca-file"} {
		cmd.Flags().Lookup(name).Hidden = false
	}
}

func (l *lookups) wanted() bool { return l.on || l.dir != "" || l.file != "" }

// open returns nil where nothing is to be looked up.
func (l *lookups) open(cmd *cobra.Command, p process) (*fetch.Fetcher, error) {
	if !l.wanted() {
		return nil, nil
	}
	c, err := configIfAny(cmd, p, l.dir, l.file)
	if err != nil {
		return nil, err
	}
	return openFetcher(c.Lookup)
}

// What became of a lookup, in an explanation.
const (
	found     policy.Outcome = "found"
	notFound  policy.Outcome = "not found"
	forbidden policy.Outcome = "may not be asked for"
	notAsked  policy.Outcome = "not looked up"
)

// lookUp brings what p asks for, by f, and tells what became of it; with a nil f
// nothing is brought.
func lookUp(ctx context.Context, f *fetch.Fetcher, p *policy.Policy, s *statement.Statement) (brought []policy.Material, steps []policy.Step) {
	for _, l := range p.Lookups(s) {
		step := policy.Step{Rule: "lookup", Outcome: notAsked, Input: l.URL}
		if f != nil {
			m, err := registrar.LookUp(ctx, f, l)
			switch {
			case err == nil:
				brought = append(brought, m)
				step.Outcome, step.Input = found, fmt.Sprintf("%s, %d bytes", l.URL, len(m.Body))
			case errors.Is(err, fetch.ErrForbidden):
				step.Outcome, step.Input = forbidden, err.Error()
			default:
				step.Outcome, step.Input = notFound, err.Error()
			}
		}
		steps = append(steps, step)
	}
	return brought, steps
}

// unasked puts steps right that refuse for want of what was not asked for: that
// is here, and no fault of the issuer's.
func unasked(looked, steps []policy.Step) {
	for i := range steps {
		r := steps[i].Refusal
		if r == nil || r.Code != policy.CodeLookupFailed {
			continue
		}
		told := *r
		for _, l := range looked {
			switch l.Outcome {
			case notAsked:
				told.Reason = "what the issuer publishes was not looked up, as a service would"
				told.Hint = "the same command with --lookup, and --dir or --config of the service where its settings matter"
			case forbidden:
				told.Hint = "say whom it may ask: --dir or --config of the service, or --lookup-hosts, --lookup-private-hosts"
			}
		}
		steps[i].Refusal = &told
	}
}
