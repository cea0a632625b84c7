package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/receipts"
	"github.com/scittd/scittd/statement"
)

func attachCommand(a *app) *cobra.Command {
	var s signing
	var o attachment
	cmd := &cobra.Command{
		Use:     "attach IMAGE --evidence FILE",
		Aliases: []string{"attest"},
		Short:   "Claim something about an image in one go: sign, upload, register, verify, place",
		Long: `Claim something about an image in one go: resolve it, sign, upload the evidence,
register with the transparency service, verify the receipt, and say where
everything goes. Without --service the image's registry is asked whether a
service answers on its host. Run twice, it finds the same entry.

The service places evidence and transparency artifact in its registry, if it has
one. With --write-back client they are placed from here, too, in the image's own
repository and with your credentials: where the service has no registry, or may
not write to this one. Both make the same manifests.`,
		Example: "  scitt attach registry.example/net-monitor:v1 --evidence sbom.spdx.json --key release.pem --issuer https://wabbit.example",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.upload != "registry" && o.upload != "service" {
				return usage("--upload %q is none of registry, service", o.upload)
			}
			if o.wait != "receipt" && o.wait != "placed" {
				return usage("--wait %q is none of receipt, placed", o.wait)
			}
			if o.writeBack != "service" && o.writeBack != "client" {
				return usage("--write-back %q is none of service, client", o.writeBack)
			}
			return a.attach(cmd.Context(), args[0], s, o)
		},
	}
	s.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&o.statement, "statement", "", "register this Signed Statement instead of making one")
	cmd.Flags().StringVar(&o.upload, "upload", "registry", "where hashed evidence goes: registry, to the image's repository; or service, through it, as every detached payload goes")
	cmd.Flags().StringVar(&o.wait, "wait", "receipt", "return with the receipt, or when everything is placed")
	cmd.Flags().StringVar(&o.writeBack, "write-back", "service", "who places evidence and transparency artifact: service, or client for here")
	return cmd
}

// attachment are attach's own flags.
type attachment struct{ statement, upload, wait, writeBack string }

// attached is what attach reports.
type attached struct {
	EntryID    statement.ID       `json:"entryId"`
	Subject    string             `json:"subject"` // the image, by digest
	Issuer     string             `json:"issuer"`
	MediaType  string             `json:"mediaType"`
	Evidence   statement.Digest   `json:"evidence"`
	Uploaded   string             `json:"uploaded"` // registry, service, or statement when it travelled inside
	Service    string             `json:"service"`
	LeafIndex  uint64             `json:"leafIndex"`
	TreeSize   uint64             `json:"treeSize"`
	Deliveries []apitype.Delivery `json:"deliveries"`
	Written    []apitype.Delivery `json:"written,omitempty"` // placed from here
	Hidden     bool               `json:"hidden,omitempty"`  // private: this caller may register it and not read it
	size       int64
	file       string
}

func (a *app) attach(ctx context.Context, imageName string, s signing, o attachment) error {
	about, err := a.subject(ctx, imageName)
	if err != nil {
		return err
	}
	a.warnMoving(about)
	if about.repo == nil {
		return usage("%s is not an image in a registry", imageName).try("scitt sign and scitt submit make claims about anything else")
	}
	service, err := a.serviceFor(ctx, about)
	if err != nil {
		return err
	}
	facts, err := service.Service(ctx)
	if err != nil {
		return err
	}
	// Asked for before anything is sent: a receipt that nobody can verify is no result.
	trust, err := a.trust()
	if err != nil {
		return err
	}
	if _, pinned := trust.Find(facts.URL); !pinned {
		return fail(exitUntrusted, "no key of %s is pinned, so its receipt could not be verified", facts.URL).
			try("scitt trust init %s", service.URL())
	}
	made, err := a.statementFor(about, s, o.statement)
	if err != nil {
		return err
	}

	what := "the evidence"
	if o.statement != "" {
		what = "the statement " + o.statement
	}
	if err := speaksOf(what, made.statement, about); err != nil {
		return err
	}

	done := attached{
		EntryID: made.statement.ID(), Subject: about.image.String(), Issuer: made.statement.Issuer,
		MediaType: made.statement.MediaType(), Evidence: made.statement.Evidence(), Service: facts.URL,
		Uploaded: "statement", size: made.evidence.size, file: made.evidence.file,
	}
	if made.envelope {
		if made.statement.Detached() {
			o.upload = "service" // which verifies the signature over it
		}
		done.Uploaded = o.upload
		if err := a.upload(ctx, service, about, made.evidence, o.upload); err != nil {
			return err
		}
	}
	// The registry's own path says where to place the claim; elsewhere the
	// service's policy does.
	repository := ""
	if facts.Registry == about.image.Host || sameHost(service.URL(), about.image.Host) {
		repository = about.image.Repository
	}
	a.say("registering entry %s with %s", done.EntryID, service.URL())
	with := client.Beside{Repository: repository}
	if repository != "" {
		with.Image = about.digest
	}
	if made.statement.Detached() {
		with.Evidence = made.evidence.digest
	}
	reg, err := service.RegisterBeside(ctx, made.bytes, with)
	if err != nil {
		return timedOut(ctx, err, done.EntryID)
	}
	receipt, err := verifyReceipt(trust, made.statement, reg.Receipt)
	if err != nil {
		return err
	}
	done.LeafIndex, done.TreeSize = receipt.Proofs[0].LeafIndex, receipt.Proofs[0].TreeSize
	if about.index {
		a.tellIndex(ctx, service, about)
	}
	var unwritten error
	if o.writeBack == "client" {
		done.Written, unwritten = a.writeBack(ctx, service, about, made, reg.Receipt)
	}
	done.Deliveries, err = awaitPlacement(ctx, service, done.EntryID, o.wait == "placed" && unwritten == nil)
	if done.Hidden = client.IsNotFound(err); err != nil && !done.Hidden {
		return err
	}
	private := done.Hidden
	if o.wait == "placed" && len(done.Deliveries) == 0 && !private {
		e, err := service.Entry(ctx, done.EntryID)
		if err != nil {
			return timedOut(ctx, err, done.EntryID)
		}
		private = e.Visibility == "private"
	}
	if err := a.print("Attachment", done, done.text); err != nil {
		return err
	}
	if unwritten != nil {
		return unwritten
	}
	switch {
	case o.wait != "placed" || private: // what is private is placed nowhere, as its policy says
		return nil
	case count(done.Deliveries, "refused") > 0:
		return fail(exitFailed, "registered, but the registry refuses the placement").try("scitt status %s", done.EntryID)
	case len(done.Written) == 0 && !goesBeside(done.Deliveries, repository, about.digest):
		return fail(exitFailed, "registered, but %s places nothing beside %s", facts.URL, about.image).
			try("the same command with --write-back client places it from here")
	}
	return nil
}

// goesBeside says whether one of the deliveries is to this image; where no
// repository was named, wherever the service's policy places it.
func goesBeside(deliveries []apitype.Delivery, repository string, image statement.Digest) bool {
	return slices.ContainsFunc(deliveries, func(d apitype.Delivery) bool {
		return d.Subject == string(image) && (repository == "" || d.Repository == repository)
	})
}

// tellIndex lets the service know which images an index lists, for a service that
// places nothing never sees it. Without, the claim is as good.
func (a *app) tellIndex(ctx context.Context, service *client.Client, about subject) {
	_, index, err := about.repo.Manifest(ctx, string(about.digest))
	if err == nil {
		err = service.KeepIndex(ctx, about.digest, index)
	}
	if err != nil {
		a.say("claims about %s will not be found by the images that it lists: %v", about.digest, err)
	}
}

// speaksOf refuses evidence about something else, such as the provenance of an
// earlier build: what is registered cannot be taken back.
func speaksOf(what string, s *statement.Statement, about subject) error {
	artifacts, err := s.Artifacts([]statement.Extractor{statement.ExtractInToto, statement.ExtractSubject})
	if err != nil {
		return usage("%w", err)
	}
	if len(artifacts) == 0 || slices.Contains(artifacts, about.digest) {
		return nil
	}
	f := usage("%s speaks about something else than %s", what, about.text).line("Want", "%s", about.digest)
	for _, artifact := range artifacts {
		f = f.line("Got", "%s", artifact)
	}
	return f
}

// statementFor reads the statement in file, or makes one.
func (a *app) statementFor(about subject, s signing, file string) (signed, error) {
	if file == "" {
		return a.sign(about, s)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return signed{}, usage("--statement: %w", err)
	}
	out := signed{bytes: raw}
	if out.statement, err = statement.Parse(raw); err != nil {
		return out, usage("--statement %s: %w", file, err)
	}
	if s.evidence == "" {
		return out, nil // whoever made it has uploaded the evidence, or it is inside
	}
	if out.evidence, err = readEvidence(s.evidence, out.statement.MediaType()); err != nil {
		return out, err
	}
	if out.statement.Detached() {
		out.envelope = true
		out.statement, err = out.evidence.signedOver(out.statement)
		return out, err
	}
	if out.evidence.digest != out.statement.Evidence() {
		return out, fail(exitInvalid, "%s is not the evidence that %s claims with", s.evidence, file).
			line("Want", "%s", out.statement.Evidence()).line("Got", "%s", out.evidence.digest)
	}
	out.envelope = out.statement.Envelope != nil
	return out, nil
}

// upload brings hashed evidence to where the service will find it.
func (a *app) upload(ctx context.Context, service *client.Client, about subject, e evidence, to string) error {
	open := func() (io.ReadCloser, error) {
		content, err := e.open()
		if err != nil {
			return nil, err
		}
		return a.metered(content, e.file, e.size), nil
	}
	if to == "service" {
		return service.StageEvidence(ctx, e.digest, e.size, open)
	}
	_, there, err := about.repo.HasBlob(ctx, string(e.digest))
	if err == nil && !there {
		err = about.repo.PushBlob(ctx, string(e.digest), e.size, open)
	}
	if err != nil {
		return fail(exitFailed, "upload %s to %s/%s: %w", e.file, about.image.Host, about.image.Repository, err).
			try("check the registry login, or add --upload service")
	}
	return nil
}

// verifyReceipt checks a fresh receipt under the pinned keys.
func verifyReceipt(trust client.Trust, s *statement.Statement, raw []byte) (*receipts.Receipt, error) {
	receipt, err := receipts.Parse(raw)
	if err != nil {
		return nil, fail(exitInvalid, "the service's receipt: %w", err)
	}
	id := s.ID()
	err = trust.Verify(receipt, id[:])
	if errors.Is(err, client.ErrNotPinned) {
		return nil, fail(exitUntrusted, "the service's receipt: %w", err).try("scitt trust init %s", receipt.Issuer)
	}
	if err != nil {
		return nil, fail(exitInvalid, "the service's receipt: %w", err)
	}
	return receipt, nil
}

// timedOut gives an error that ends a wait its exit code, and names the entry.
func timedOut(ctx context.Context, err error, id statement.ID) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fail(exitTimeout, "time ran out, entry %s: %w", id, err).try("scitt status %s", id)
	}
	return err
}

func (d attached) text(w io.Writer) {
	if d.file != "" {
		how := map[string]string{"statement": "inside the statement", "registry": "uploaded", "service": "staged at the service"}[d.Uploaded]
		fmt.Fprintf(w, "Evidence    %s  %s  %s  %s  %s\n", d.file, clean(d.MediaType), human(d.size), d.Evidence, how)
	}
	fmt.Fprintf(w, "Registered  entry %s  leaf %d  receipt verified\n", d.EntryID, d.LeafIndex)
	if d.Hidden {
		fmt.Fprintln(w, "Placement   none: the policy keeps the claim private (a token with scope read shows it)")
		return
	}
	if len(d.Written) == 0 || len(d.Deliveries) > 0 {
		placementText(w, d.Deliveries)
	}
	for _, p := range d.Written {
		fmt.Fprintf(w, "Written     %-12s  %s/%s  %s\n", p.Artifact, p.Registry, p.Repository, p.Manifest)
	}
}
