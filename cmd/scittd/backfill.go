package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Bounds of one repository.
const (
	backfillTags     = 100_000
	backfillManifest = 10_000 // that one index lists
	backfillPayload  = 32 << 20
)

func registryCommand(p process) *cobra.Command {
	return group("registry", "Look at the registry, and bring it and the log together", registryBackfill(p), registryRefusals(p), registryProbe(p), registryReconcile(p))
}

func registryBackfill(p process) *cobra.Command {
	var dir, file, service, tokenFile, format string
	var dry bool
	cmd := &cobra.Command{
		Use:   "backfill REPO[:TAG|@DIGEST]...",
		Short: "Register statements that already lie in the registry as referrers",
		Long: `Register statements that already lie in the registry: pushed before this service
was there, or past it, or left behind when it stopped between a push and its
registration. Of a repository all that its tags lead to is looked at, the images
of an index too; what no tag leads to is named by digest. Every referrer of type
application/scitt-statement+cose is registered with the running service, for the
image that it refers to, and what became of each is said. What is registered
already keeps its entry, and gets its receipt here, too, where it has none; so no
harm is done by repeating this. Exit code 3: there is no such repository or image.

The registry is read with this service's own credentials for it.`,
		Example: "  scittd registry backfill wabbit/net-monitor --dry-run\n  scittd registry backfill wabbit/net-monitor --token-file token",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("%w: --format %q is none of text, json", errUsage, format)
			}
			c, err := serveConfig(cmd, p, dir, file)
			if err != nil {
				return err
			}
			b, err := newBackfill(c, service, tokenFile, dry)
			if err != nil {
				return err
			}
			var missing error // the others are looked at all the same
			for _, arg := range args {
				if err := b.repository(cmd.Context(), arg); err != nil {
					nothing := errors.Is(err, errNothing)
					err = fmt.Errorf("%s: %w", arg, err)
					if !nothing {
						return err
					}
					missing = cmp.Or(missing, err)
				}
			}
			return cmp.Or(b.report(p.stdout, format), missing)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be decided, and change nothing")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	addOperatorFlags(cmd, &service, &tokenFile)
	addLocationFlags(cmd, &dir, &file)
	return cmd
}

// backfilled is what became of one referrer.
type backfilled struct {
	Repository string `json:"repository"`
	Image      string `json:"subject"`
	Manifest   string `json:"manifest"`
	Outcome    string `json:"outcome"` // registered, known, placed (known, and now here, too), refused, malformed, failed; in a dry run also: would register, would place, undecided
	EntryID    string `json:"entryId,omitempty"`
	Reason     string `json:"reason,omitempty"`
}

// backfill is one run of the command.
type backfill struct {
	hosts    []string // that references may begin with
	registry storage.Registry
	service  *client.Client
	dry      bool
	done     []backfilled
	seen     map[string]bool // repository@digest of images
	absent   string          // the last tag that led nowhere
}

func newBackfill(c Config, serviceURL, tokenFile string, dry bool) (*backfill, error) {
	if serviceURL == "" {
		serviceURL = c.URL
	}
	token, err := readToken(tokenFile)
	if err != nil {
		return nil, err
	}
	b := &backfill{dry: dry, seen: map[string]bool{}, hosts: []string{c.registryHost(), c.Registry.Host}}
	if b.service, err = client.New(serviceURL, client.Options{Token: token, UserAgent: "scittd/" + version()}); err != nil {
		return nil, err
	}
	switch {
	case c.Registry.Off:
		return nil, fmt.Errorf("%w: registry.off: there is no registry", errConfig)
	case c.embeddedRegistry(): // the running service has it
		u, err := url.Parse(serviceURL)
		if err != nil {
			return nil, fmt.Errorf("%w: --service: %w", errUsage, err)
		}
		b.registry, err = storage.OpenRemote(u.Host, storage.RemoteOptions{
			PlainHTTP: u.Scheme == "http", UserAgent: "scittd/" + version(),
			Credentials: func(context.Context, string) (storage.Credential, error) { return storage.Credential{}, nil },
		})
		return b, err
	}
	b.registry, err = remoteRegistry(c, nil)
	return b, err
}

// repository goes through one repository, or through what one reference names.
func (b *backfill) repository(ctx context.Context, ref string) error {
	name, refs, err := b.split(ref)
	if err != nil {
		return err
	}
	repo, err := b.registry.Repository(name)
	if err != nil {
		return err
	}
	all := refs == nil
	if all {
		tags, ok := repo.(storage.Tags)
		if !ok {
			return errors.New("this registry does not list tags: name images by digest")
		}
		if refs, err = tags.Tags(ctx, backfillTags); err != nil {
			return err
		}
	}
	if all && len(refs) == 0 {
		known, ok := b.registry.(interface {
			KnowsRepository(ctx context.Context, name string) (bool, error)
		})
		if ok {
			if there, err := known.KnowsRepository(ctx, name); err != nil || !there {
				return cmp.Or(err, fmt.Errorf("%w: the registry has no such repository", errNothing))
			}
		}
	}
	for _, ref := range refs {
		if err := b.image(ctx, name, repo, ref); err != nil {
			return err
		}
	}
	if !all && b.absent == refs[0] {
		return fmt.Errorf("%w: the registry has no such image", errNothing)
	}
	return nil
}

// split reads [HOST/]NAME[:TAG|@DIGEST]. No references: all there are.
func (b *backfill) split(ref string) (name string, refs []string, err error) {
	for _, host := range b.hosts {
		if rest, ok := strings.CutPrefix(ref, host+"/"); ok && host != "" {
			ref = rest
			break
		}
	}
	name, digest, byDigest := strings.Cut(ref, "@")
	if byDigest {
		d, err := statement.ParseDigest(digest)
		if err != nil {
			return "", nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		return name, []string{string(d)}, nil
	}
	if name, tag, ok := strings.Cut(ref, ":"); ok {
		return name, []string{tag}, nil
	}
	return name, nil, nil
}

// image looks at one image, by tag or digest, and at those that an index lists.
// A tag of the referrers tag schema stands for the image that it names.
func (b *backfill) image(ctx context.Context, name string, repo storage.Repository, ref string) error {
	if alg, hex, ok := strings.Cut(ref, "-"); ok {
		if d, err := statement.ParseDigest(alg + ":" + hex); err == nil {
			ref = string(d)
		}
	}
	if b.seen[name+"@"+ref] {
		return nil
	}
	d, body, err := repo.Manifest(ctx, ref)
	if errors.Is(err, storage.ErrNotFound) {
		// Its referrers may be there still, if it was named by digest.
		if _, bad := statement.ParseDigest(ref); bad != nil {
			b.absent = ref
			return nil
		}
		d, err = storage.Descriptor{Digest: ref}, nil
	}
	if err != nil {
		return err
	}
	if b.seen[name+"@"+d.Digest] {
		return nil
	}
	b.seen[name+"@"+d.Digest] = true
	referrers, err := repo.Referrers(ctx, d.Digest, storage.StatementType)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	for _, referrer := range referrers {
		b.done = append(b.done, b.referrer(ctx, name, repo, d.Digest, referrer.Digest))
	}
	var index struct {
		Manifests []storage.Descriptor `json:"manifests"`
	}
	if json.Unmarshal(body, &index) != nil {
		return nil
	}
	for _, listed := range index.Manifests[:min(len(index.Manifests), backfillManifest)] {
		if _, err := statement.ParseDigest(listed.Digest); err != nil {
			continue
		}
		if err := b.image(ctx, name, repo, listed.Digest); err != nil {
			return err
		}
	}
	return nil
}

// referrer registers one statement. Whatever is wrong with it is its outcome.
func (b *backfill) referrer(ctx context.Context, name string, repo storage.Repository, image, manifest string) backfilled {
	out := backfilled{Repository: name, Image: image, Manifest: manifest, Outcome: "malformed"}
	fail := func(err error) backfilled {
		var problem *client.Problem
		switch {
		case errors.As(err, &problem) && problem.Status == 400:
			out.Outcome = "refused"
		case !errors.Is(err, storage.ErrSubmission):
			out.Outcome = "failed"
		}
		out.Reason = err.Error()
		return out
	}
	_, body, err := repo.Manifest(ctx, manifest)
	if err != nil {
		return fail(err)
	}
	s, ok, err := storage.ParseSubmission(body)
	if err != nil {
		return fail(err)
	}
	if !ok || s.Type != storage.StatementType || s.Subject.Digest != image {
		out.Reason = "it is listed as what it is not: its own manifest says otherwise"
		return out
	}
	signed, err := readBlob(ctx, repo, s.Statement, statement.MaxSize)
	if err != nil {
		return fail(err)
	}
	read, err := statement.Parse(signed)
	if err != nil {
		out.Reason = err.Error()
		return out
	}
	out.EntryID = read.ID().String()
	with := client.Beside{Repository: name, Image: statement.Digest(image)}
	if read.Detached() { // evidence whose signer is asked for is read where it lies
		if with.Evidence, err = b.stage(ctx, repo, s); err != nil {
			return fail(err)
		}
	}
	entry, err := b.service.Entry(ctx, read.ID())
	known := err == nil
	if err != nil && !client.IsNotFound(err) {
		return fail(err)
	}
	switch {
	case known && entry.Visibility != "public":
		out.Outcome = "known"
	case known:
		if out.Outcome, err = b.known(ctx, read.ID(), signed, with); err != nil {
			return fail(err)
		}
	case b.dry:
		judged, err := b.service.Validate(ctx, signed, with)
		if err != nil {
			return fail(err)
		}
		switch out.Outcome = "would register"; {
		case judged.Code == policy.CodePayloadMissing && read.Detached() && s.Payload.Digest != "":
			out.Outcome, out.Reason = "undecided", "its payload is detached, and a dry run does not stage it"
		case judged.Decision != "allow":
			out.Outcome, out.Reason = "refused", judged.Reason
		}
	default:
		if _, err := b.service.RegisterBeside(ctx, signed, with); err != nil {
			return fail(err)
		}
		out.Outcome = "registered"
	}
	return out
}

// known sees to it that what is registered is placed where it was found, too.
func (b *backfill) known(ctx context.Context, id statement.ID, signed []byte, with client.Beside) (outcome string, err error) {
	here := func() (bool, error) {
		all, err := b.service.Deliveries(ctx, id)
		return slices.ContainsFunc(all, func(d apitype.Delivery) bool {
			return d.Repository == with.Repository && d.Subject == string(with.Image)
		}), err
	}
	if there, err := here(); err != nil || there {
		return "known", err
	}
	if b.dry {
		return "would place", nil
	}
	if _, err := b.service.RegisterBeside(ctx, signed, with); err != nil {
		return "", err
	}
	if there, err := here(); err != nil || !there {
		return "known", err // the policy refuses it by now, or another host is the registry
	}
	return "placed", nil
}

// stage brings the payload of a detached statement to the service, and names it.
func (b *backfill) stage(ctx context.Context, repo storage.Repository, s storage.Submission) (statement.Digest, error) {
	if s.Payload.Digest == "" {
		return statement.Digest(s.Evidence), nil // staged before, or missing
	}
	if b.dry {
		return "", nil
	}
	payload, err := readBlob(ctx, repo, s.Payload, backfillPayload)
	if err != nil {
		return "", err
	}
	digest := statement.Digest(s.Payload.Digest)
	return digest, b.service.StageEvidence(ctx, digest, int64(len(payload)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(payload)), nil
	})
}

func readBlob(ctx context.Context, repo storage.Repository, d storage.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are read", storage.ErrSubmission, d.Digest, d.Size, limit)
	}
	blob, _, err := repo.Blob(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	b, err := io.ReadAll(io.LimitReader(blob, d.Size+1))
	if err != nil {
		return nil, err
	}
	if err := d.Verify(b); err != nil {
		return nil, fmt.Errorf("%w: %w", storage.ErrSubmission, err)
	}
	return b, nil
}

// report says what became of each. Failures, which trying again may mend, are
// the command's too; refusals are decisions.
func (b *backfill) report(w io.Writer, format string) error {
	failures := 0
	for _, r := range b.done {
		if r.Outcome == "failed" {
			failures++
		}
	}
	if format == "json" {
		if err := printJSON(w, slices.Concat([]backfilled{}, b.done)); err != nil {
			return err
		}
	} else {
		table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, r := range b.done {
			fmt.Fprintf(table, "%s\t%s@%s\t%s\t%s\t%s\n", r.Outcome, r.Repository, r.Image, r.Manifest, r.EntryID, r.Reason)
		}
		if err := table.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(w, "%d statements\n", len(b.done))
	}
	if failures > 0 {
		return fmt.Errorf("%d of %d statements could not be registered\nTry:   the same command again", failures, len(b.done))
	}
	return nil
}
