package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

// registration is what submit reports of one file.
type registration struct {
	File    string       `json:"file"`
	State   string       `json:"state"` // registered, pending, failed
	EntryID string       `json:"entryId,omitempty"`
	URL     string       `json:"url,omitempty"`
	Receipt string       `json:"receipt,omitempty"` // verified, or why not
	Error   *errorReport `json:"error,omitempty"`

	transparent []byte
}

func submitCommand(a *app) *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use: "submit FILE...", Aliases: []string{"register"}, Args: cobra.MinimumNArgs(1),
		Short: "Register Signed Statements; -o writes the Transparent Statement of a single one",
		Long: `Register Signed Statements. What is wrong with one file is said, and the others
go on; the exit code is then that of the failures, or 1 when they differ.`,
		Example: "  scitt submit claim.cose -o claim.transparent.cose",
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != "" && (len(args) > 1 || noWait) {
				return usage("-o takes the Transparent Statement of one file that is waited for")
			}
			return a.submit(cmd.Context(), args, noWait)
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for a receipt that takes long")
	return cmd
}

func (a *app) submit(ctx context.Context, files []string, noWait bool) error {
	c, err := a.openService()
	if err != nil {
		return err
	}
	trust, err := a.trust()
	if err != nil {
		return err
	}
	var all []registration
	var failures []error
	for _, file := range files {
		r, err := register(ctx, c, trust, file, noWait)
		if err != nil {
			report := describe(err)
			r.State, r.Error = "failed", &report
			failures = append(failures, err)
		}
		all = append(all, r)
	}
	if len(files) == 1 && len(failures) == 1 {
		return fmt.Errorf("%s: %w", files[0], failures[0])
	}
	if a.output != "" {
		if err := a.write(all[0].transparent); err != nil {
			return err
		}
	}
	err = a.report("Registrations", all, func(w io.Writer) {
		for _, r := range all {
			r.text(w)
		}
	})
	if err != nil || len(failures) == 0 {
		return err
	}
	return fail(sharedCode(failures), "%d of %d statements were not registered", len(failures), len(all))
}

// register registers one file and verifies its receipt.
func register(ctx context.Context, c *client.Client, trust client.Trust, file string, noWait bool) (registration, error) {
	r := registration{File: file}
	raw, err := os.ReadFile(file)
	if err != nil {
		return r, usage("%w", err)
	}
	s, err := statement.Parse(raw)
	if err != nil {
		return r, usage("%w", err)
	}
	send := c.Register
	if noWait {
		send = c.Submit
	}
	reg, err := send(ctx, raw, "")
	if err != nil {
		return r, timedOut(ctx, err, s.ID())
	}
	r.EntryID, r.URL = reg.EntryID.String(), reg.URL
	if reg.Pending {
		r.State = "pending"
		return r, nil
	}
	r.State, r.Receipt = "registered", "verified"
	if _, err := verifyReceipt(trust, s, reg.Receipt); err != nil {
		// Registering needs no trust; saying that a receipt holds does. Whoever
		// pinned this service wants its receipts and nobody else's.
		_, pinned := trust.Find(c.URL())
		if pinned || describe(err).ExitCode != exitUntrusted {
			return r, err
		}
		r.Receipt = "not verified: " + err.Error()
	}
	chain := s.Chain
	if s.ChainProtected {
		chain = nil
	}
	r.transparent, err = receipts.BuildTransparent(s.Canonical(), chain, reg.Receipt)
	return r, err
}

// sharedCode is the exit code of all failures; 1, retrying may help, when they
// differ.
func sharedCode(failures []error) int {
	code := describe(failures[0]).ExitCode
	for _, err := range failures {
		if describe(err).ExitCode != code {
			return exitFailed
		}
	}
	return code
}

func (r registration) text(w io.Writer) {
	switch r.State {
	case "registered":
		fmt.Fprintf(w, "Registered  %s  entry %s  receipt %s\n", r.File, r.EntryID, clean(r.Receipt))
	case "pending":
		fmt.Fprintf(w, "Pending     %s  entry %s\n", r.File, r.EntryID)
	default:
		fmt.Fprintf(w, "FAILED      %s  %s\n", r.File, clean(r.Error.Message))
		for _, n := range r.Error.Notes {
			fmt.Fprintf(w, "            %-6s %s\n", n.Name+":", clean(n.Text))
		}
	}
}
