package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

// maxValues is how many alternatives one query of the service may have.
const maxValues = 100

// querying are query's flags.
type querying struct {
	images, digests, evidence []string
	prefixes                  []string
	digestFile                string
	since, until              string
	all, allowEmpty, full     bool
	q                         client.Query
}

func queryCommand(a *app) *cobra.Command {
	var o querying
	cmd := &cobra.Command{
		Use: "query", Aliases: []string{"claims", "search"}, Args: cobra.NoArgs,
		Short:   "List what is claimed: about which artifact, by whom, of which kind",
		Long:    "List registered statements, newest first. Repeated flags mean or, different flags mean and.",
		Example: "  scitt query --image registry.example/net-monitor:v1\n  scitt query --digest sha256:9f86... --issuer https://wabbit.example --media-type application/spdx+json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.query(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.images, "image", nil, "an image, resolved in its registry")
	f.StringArrayVar(&o.digests, "digest", nil, "an artifact's digest")
	f.StringVar(&o.digestFile, "digest-file", "", "file with a digest a line; - is standard input")
	f.StringArrayVar(&o.evidence, "evidence", nil, "evidence: its digest or file:PATH")
	f.StringArrayVar(&o.q.Issuers, "issuer", nil, "an issuer, exactly")
	f.StringArrayVar(&o.prefixes, "issuer-prefix", nil, "an issuer and all below it, whole segments: https://a.example has https://a.example/team")
	f.StringArrayVar(&o.q.MediaTypes, "media-type", nil, "a media type")
	f.StringArrayVar(&o.q.PredicateTypes, "predicate-type", nil, "an in-toto predicate type")
	f.StringVar(&o.since, "since", "", "registered at or after: RFC 3339, a date, or a duration ago")
	f.StringVar(&o.until, "until", "", "registered before: RFC 3339, a date, or a duration ago")
	f.IntVar(&o.q.Limit, "limit", 50, "how many to list, 1 to 500")
	f.BoolVar(&o.q.Instances, "instances", false, "of an image index, also claims about the images that it lists")
	f.BoolVar(&o.all, "all", false, "list all, page by page")
	f.BoolVar(&o.full, "full", false, "do not abbreviate entry IDs and digests")
	f.BoolVar(&o.allowEmpty, "allow-empty", false, "exit 0 although nothing was found")
	return cmd
}

func (a *app) query(ctx context.Context, o querying) error {
	about, err := a.completeQuery(ctx, &o)
	if err != nil {
		return err
	}
	c, err := a.serviceFor(ctx, about)
	if err != nil {
		return err
	}
	var found apitype.EntryList
	// More artifacts than one query takes are asked for in several.
	parts := slices.Collect(slices.Chunk(o.q.Artifacts, maxValues))
	if parts == nil {
		parts = [][]statement.Digest{nil}
	}
	for _, part := range parts {
		q := o.q
		q.Artifacts = part
		find := c.Find
		if o.all {
			find = func(ctx context.Context, q client.Query) (apitype.EntryList, error) { return findAll(ctx, c, q) }
		}
		list, err := find(ctx, q)
		if err != nil {
			return err
		}
		found = merge(found, list)
	}
	more := found.Next != ""
	if len(parts) > 1 {
		found.Next = "" // a cursor of one of several queries continues nothing
	}
	if !o.all && len(found.Entries) > o.q.Limit {
		found.Entries, more = found.Entries[:o.q.Limit], true
	}
	if len(found.Entries) == 0 && !o.allowEmpty {
		return nothingFound(found.Found)
	}
	if err := a.print("Entries", found, func(w io.Writer) { entryTable(w, found.Entries, o.full) }); err != nil {
		return err
	}
	if more {
		a.warn("there are more; add --all or a larger --limit")
	}
	return nil
}

// completeQuery resolves subjects and times, and returns the first subject, for
// its registry may say where the service is.
func (a *app) completeQuery(ctx context.Context, o *querying) (subject, error) {
	var first subject
	if o.q.Limit < 1 || o.q.Limit > 500 {
		return first, usage("--limit %d is not in 1 to 500", o.q.Limit).try("--all lists everything")
	}
	texts := slices.Concat(o.images, o.digests)
	if o.digestFile != "" {
		more, err := a.readLines(o.digestFile)
		if err != nil {
			return first, err
		}
		if texts = append(texts, more...); len(texts) == 0 {
			return first, usage("--digest-file %s names no digest", o.digestFile)
		}
	}
	for _, text := range texts {
		about, err := a.withDigest(ctx, text)
		if err != nil {
			return first, err
		}
		if first.text == "" {
			first = about
		}
		o.q.Artifacts = append(o.q.Artifacts, about.digest)
	}
	for _, text := range o.evidence {
		about, err := a.withDigest(ctx, text)
		if err != nil {
			return first, err
		}
		o.q.Evidence = append(o.q.Evidence, about.digest)
	}
	var err error
	if o.q.IssuerPrefixes, err = issuerPrefixes(o.prefixes); err != nil {
		return first, err
	}
	if o.q.Since, err = instant("--since", o.since); err != nil {
		return first, err
	}
	o.q.Until, err = instant("--until", o.until)
	return first, err
}

func (a *app) withDigest(ctx context.Context, text string) (subject, error) {
	about, err := a.subject(ctx, text)
	if err == nil && about.digest == "" {
		err = usage("%s has no digest to look for", text)
	}
	return about, err
}

// issuerPrefixes reads the values of --issuer-prefix.
func issuerPrefixes(texts []string) ([]statement.IssuerPrefix, error) {
	var all []statement.IssuerPrefix
	for _, text := range texts {
		p, err := statement.ParseIssuerPrefix(text)
		if err != nil {
			return nil, usage("--issuer-prefix: %w", err).line("Want", "an issuer, such as https://wabbit.example, or one that others are below")
		}
		all = append(all, p)
	}
	return all, nil
}

// findAll reads all pages.
func findAll(ctx context.Context, c *client.Client, q client.Query) (apitype.EntryList, error) {
	q.Limit = 500
	list, err := c.Find(ctx, q)
	for err == nil && list.Next != "" {
		var page apitype.EntryList
		q.Cursor = list.Next
		page, err = c.Find(ctx, q)
		list.Entries, list.Next = append(list.Entries, page.Entries...), page.Next
	}
	return list, err
}

// merge joins the answers of two queries, newest first. One statement may be
// about artifacts of both.
func merge(a, b apitype.EntryList) apitype.EntryList {
	if a.Entries == nil {
		return b
	}
	a.Entries = append(a.Entries, b.Entries...)
	slices.SortFunc(a.Entries, func(x, y apitype.Entry) int { return cmp.Compare(y.Index, x.Index) })
	a.Entries = slices.CompactFunc(a.Entries, func(x, y apitype.Entry) bool { return x.EntryID == y.EntryID })
	if a.Next == "" {
		a.Next = b.Next
	}
	if b.Found != nil && a.Found != nil {
		a.Found.Issuers = append(a.Found.Issuers, b.Found.Issuers...)
		a.Found.MediaTypes = append(a.Found.MediaTypes, b.Found.MediaTypes...)
	}
	return a
}

// nothingFound says what does exist about the artifacts, so that a mistyped
// filter shows.
func nothingFound(found *apitype.Found) error {
	f := fail(exitEmpty, "nothing is registered that matches")
	if found == nil {
		return f
	}
	for _, issuer := range found.Issuers {
		f.line("Found", "claims by %s", issuer)
	}
	for _, mediaType := range found.MediaTypes {
		f.line("Found", "claims of type %s", mediaType)
	}
	return f
}

// kindOf is what a claim is, as specific as known.
func kindOf(e apitype.Entry) string {
	if e.PredicateType != "" {
		return e.PredicateType
	}
	return e.MediaType
}

func entryTable(w io.Writer, entries []apitype.Entry, full bool) {
	short := abbreviate
	if full {
		short = func(s string) string { return s }
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LEAF\tENTRY\tISSUER\tCLAIM\tREGISTERED\tEVIDENCE\tABOUT")
	for _, e := range entries {
		about := "-"
		if len(e.Artifacts) > 0 {
			about = short(e.Artifacts[0])
		}
		if len(e.Artifacts) > 1 {
			about += fmt.Sprintf(" and %d more", len(e.Artifacts)-1)
		}
		if e.Via != "" {
			about = "via index " + short(e.Via)
		}
		if e.Instance != "" {
			about = "instance " + short(e.Instance)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Index, short(e.EntryID), clean(e.Issuer), clean(kindOf(e)),
			e.RegisteredAt.UTC().Format("2006-01-02 15:04:05Z"), clean(cmp.Or(e.Evidence.State, "-")), clean(about))
	}
	t.Flush()
}

// abbreviate shortens a digest or an entry ID for people.
func abbreviate(s string) string {
	prefix, hex := "", s
	if digest, err := statement.ParseDigest(s); err == nil {
		prefix = digest.Algorithm() + ":"
		hex = s[len(prefix):]
	}
	return prefix + hex[:min(len(hex), 12)]
}

// instant reads an RFC 3339 time, a date, or a duration before now.
func instant(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("%s %q is neither an RFC 3339 time, a date nor a duration", flag, text)
}

func (a *app) readLines(file string) ([]string, error) {
	in := a.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usage("%w", err)
		}
		defer f.Close()
		in = f
	}
	var lines []string
	scan := bufio.NewScanner(in)
	for scan.Scan() {
		if text := strings.TrimSpace(scan.Text()); text != "" {
			lines = append(lines, text)
		}
	}
	return lines, scan.Err()
}
