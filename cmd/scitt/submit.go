package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"

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
}

func submitCommand(a *app) *cobra.Command {
	var noWait bool
	var evidence string
	cmd := &cobra.Command{
		Use: "submit FILE...", Aliases: []string{"register"}, Args: cobra.MinimumNArgs(1),
		Short: "Register Signed Statements; -o writes the Transparent Statement of a single one",
		Long: `Register Signed Statements. Several travel together, a hundred to a request. What
is wrong with one file is said, and the others go on; the exit code is then that
of the worst failure: a verdict (10 to 16) before 4, 2, 17 and 1.

With --evidence, F is staged at the service before: what a hash envelope has the
digest of, or the payload that a detached statement was signed over.`,
		Example: "  scitt submit claim.cose -o claim.transparent.cose\n  scitt submit claims/*.cose\n  scitt submit sbom.cose --evidence sbom.spdx.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != "" && (len(args) > 1 || noWait) {
				return usage("-o takes the Transparent Statement of one file that is waited for")
			}
			if evidence != "" && len(args) > 1 {
				return usage("--evidence belongs to one statement")
			}
			return a.submit(cmd.Context(), args, evidence, noWait)
		},
	}
	cmd.Flags().StringVar(&evidence, "evidence", "", "file to stage at the service first: the evidence of a hash envelope, the payload of a detached statement")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for a receipt that takes long")
	return cmd
}

func (a *app) submit(ctx context.Context, files []string, evidence string, noWait bool) error {
	c, err := a.openService()
	if err != nil {
		return err
	}
	trust, err := a.trust()
	if err != nil {
		return err
	}
	s := submission{a, c, trust, c.RegisterBeside, c.RegisterAll}
	if noWait {
		s.one, s.many = c.SubmitBeside, c.SubmitAll
	}
	if len(files) > 1 {
		return s.files(ctx, files)
	}
	if err := s.file(ctx, files[0], evidence); err != nil {
		return fmt.Errorf("%s: %w", files[0], err)
	}
	return nil
}

// submission is one run of submit.
type submission struct {
	*app
	service *client.Client
	pinned  client.Trust
	one     func(ctx context.Context, signed []byte, with client.Beside) (client.Registration, error)
	many    func(ctx context.Context, signed iter.Seq[[]byte], done func(n int, r client.Registration, err error))
}

// file registers a single file, once its evidence is staged, if it has any.
func (s submission) file(ctx context.Context, file, evidence string) error {
	signed, err := readStatement(file)
	if err != nil {
		return err
	}
	var with client.Beside
	if evidence != "" {
		if with.Evidence, err = s.stage(ctx, signed, evidence); err != nil {
			return err
		}
	}
	reg, err := s.one(ctx, signed.raw, with)
	r, err := s.conclude(ctx, file, signed, reg, err)
	if err != nil {
		return err
	}
	if s.output != "" {
		transparent, err := signed.transparent(reg.Receipt)
		if err != nil {
			return err
		}
		if err := s.write(transparent); err != nil {
			return err
		}
	}
	return s.report("Registrations", []registration{r}, r.text)
}

// stage uploads the evidence in file, and names it where the statement does not.
func (s submission) stage(ctx context.Context, signed signedFile, file string) (statement.Digest, error) {
	e, err := readEvidence(file, cmp.Or(signed.MediaType(), "application/octet-stream"))
	if err != nil {
		return "", err
	}
	if signed.Detached() {
		_, err = e.signedOver(signed.Statement)
	} else if e.digest != signed.Evidence() {
		err = fail(exitInvalid, "%s is not the evidence that is claimed with", file).
			line("Want", "%s", signed.Evidence()).line("Got", "%s", e.digest)
	}
	if err == nil {
		err = s.service.StageEvidence(ctx, e.digest, e.size, e.open)
	}
	if !signed.Detached() {
		return "", err
	}
	return e.digest, err
}

// files registers several, in as few requests as the client thinks fit, and
// reads them as they are needed. Each has its outcome in the report.
func (s submission) files(ctx context.Context, files []string) error {
	all := make([]registration, len(files))
	failures := make([]error, len(files))
	count := s.counted(len(files))
	settle := func(at int, signed signedFile, reg client.Registration, err error) {
		r, err := s.conclude(ctx, files[at], signed, reg, err)
		if err != nil {
			report := describe(err)
			r.State, r.Error = "failed", &report
		}
		all[at], failures[at] = r, err
		count.add(err == nil)
	}

	var from []int // which file a statement came from
	var sent []signedFile
	readable := func(yield func([]byte) bool) {
		for at, file := range files {
			signed, err := readStatement(file)
			if err != nil {
				settle(at, signed, client.Registration{}, err)
				continue
			}
			from, sent = append(from, at), append(sent, signed)
			if !yield(signed.raw) {
				return
			}
		}
	}
	s.many(ctx, readable, func(n int, reg client.Registration, err error) {
		settle(from[n], sent[n], reg, err)
		sent[n] = signedFile{} // only what is on its way is held
	})
	count.close()

	err := s.report("Registrations", all, func(w io.Writer) {
		for _, r := range all {
			r.text(w)
		}
	})
	if err != nil {
		return err
	}
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	if len(failures) == 0 {
		return nil
	}
	return fail(worst(failures), "%d of %d statements were not registered", len(failures), len(all))
}

// signedFile is a Signed Statement with the bytes that were read.
type signedFile struct {
	*statement.Statement
	raw []byte
}

func readStatement(file string) (signedFile, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return signedFile{}, usage("%w", err)
	}
	s, err := statement.Parse(raw)
	if err != nil {
		return signedFile{}, usage("%w", err)
	}
	return signedFile{s, raw}, nil
}

// transparent is the statement with its receipt.
func (f signedFile) transparent(receipt []byte) ([]byte, error) {
	chain := f.Chain
	if f.ChainProtected {
		chain = nil
	}
	return receipts.BuildTransparent(f.Canonical(), chain, receipt)
}

// conclude makes of a registration, or of err, what is reported of it, and
// verifies the receipt.
func (s submission) conclude(ctx context.Context, file string, signed signedFile, reg client.Registration, err error) (registration, error) {
	r := registration{File: file}
	switch {
	case signed.Statement == nil: // there was nothing to register
		return r, err
	case err != nil:
		return r, timedOut(ctx, err, signed.ID())
	}
	r.EntryID, r.URL = reg.EntryID.String(), reg.URL
	if reg.Pending {
		r.State = "pending"
		return r, nil
	}
	r.State, r.Receipt = "registered", "verified"
	if _, err := verifyReceipt(s.pinned, signed.Statement, reg.Receipt); err != nil {
		// Registering needs no trust; saying that a receipt holds does. Whoever
		// pinned this service wants its receipts and nobody else's.
		_, pinned := s.pinned.Find(s.service.URL())
		if pinned || describe(err).ExitCode != exitUntrusted {
			return r, err
		}
		r.Receipt = "not verified: " + err.Error()
	}
	return r, nil
}

// worst is the exit code of the failure that trying again mends least: a
// verdict before what is wrong on this side, and that before what may pass.
func worst(failures []error) int {
	code := exitFailed
	for _, err := range failures {
		if c := describe(err).ExitCode; badness(c) > badness(code) {
			code = c
		}
	}
	return code
}

func badness(code int) int {
	if code == exitFailed || code == exitTimeout {
		return code - exitTimeout // may pass: below all others
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
