package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
)

// entryStatus is one entry with where it was, or is to be, placed.
type entryStatus struct {
	apitype.Entry
	Deliveries []apitype.Delivery `json:"deliveries"`
}

func statusCommand(a *app) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status ENTRY|SUBJECT", Args: cobra.ExactArgs(1),
		Short:   "Show registration and placement of an entry, or of all entries about an artifact",
		Example: "  scitt status registry.example/net-monitor:v1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				return a.watch(cmd.Context(), args[0])
			}
			_, all, err := a.status(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print("Status", all, statusText(all))
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "report every change until all is placed; JSON comes a line each")
	return cmd
}

// watch prints what changes, until nothing is queued any more.
func (a *app) watch(ctx context.Context, text string) error {
	var last []byte
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		queued, all, err := a.status(ctx, text)
		if err != nil {
			return watchEnded(ctx, err)
		}
		now, err := a.render("Status", all, statusText(all))
		if err != nil {
			return err
		}
		if !bytes.Equal(now, last) {
			last = now
			if a.format == "json" { // NDJSON
				var line bytes.Buffer
				if err := json.Compact(&line, now); err != nil {
					return err
				}
				now = append(line.Bytes(), '\n')
			}
			if err := a.write(now); err != nil {
				return err
			}
		}
		if queued == 0 {
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return watchEnded(ctx, err)
		}
	}
}

func watchEnded(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fail(exitTimeout, "time ran out before everything was placed").try("add --timeout DURATION")
	}
	return err
}

// status collects what is known, and counts the deliveries still queued.
func (a *app) status(ctx context.Context, text string) (queued int, all []entryStatus, err error) {
	c, entries, err := a.entries(ctx, text)
	if err != nil {
		return 0, nil, err
	}
	for _, e := range entries {
		id, err := statement.ParseID(e.EntryID)
		if err != nil {
			return 0, nil, err
		}
		deliveries, err := c.Deliveries(ctx, id)
		if err != nil {
			return 0, nil, err
		}
		queued += count(deliveries, "queued")
		all = append(all, entryStatus{e, deliveries})
	}
	return queued, all, nil
}

func statusText(all []entryStatus) func(io.Writer) {
	return func(w io.Writer) {
		for i, s := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			s.text(w)
		}
	}
}

func (s entryStatus) text(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s  %s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	row("Entry", "%s  leaf %d  registered %s", s.EntryID, s.Index, s.RegisteredAt.UTC().Format(time.RFC3339))
	row("Claim", "%s  by %s  (%s)", kindOf(s.Entry), s.Issuer, s.Visibility)
	for _, digest := range s.Artifacts {
		row("About", "%s", digest)
	}
	if s.Via != "" {
		row("Via", "%s, an image index that lists what was asked for", s.Via)
	}
	if s.Evidence.Digest != "" {
		row("Evidence", "%s", evidenceText(s.Evidence))
	}
	row("Admitted", "by %s of policy %s", s.Policy.Rule, abbreviate(s.Policy.Entry))
	signer := s.Identity.Kind + " " + abbreviate(s.Identity.Thumbprint)
	if s.Identity.Name != "" {
		signer += ", found under " + s.Identity.Name
	}
	row("Identity", "%s", signer)
	for _, c := range s.Collateral {
		row("Collateral", "%s  %d bytes  sha256:%s", c.Kind, c.Size, abbreviate(c.SHA256))
	}
	placementText(w, s.Deliveries)
}

// entries finds what ENTRY|SUBJECT means: one entry by its ID, or all about an
// artifact. A bare 64 hex digits may be either; an entry is looked for first.
func (a *app) entries(ctx context.Context, text string) (*client.Client, []apitype.Entry, error) {
	if id, err := statement.ParseID(text); err == nil {
		c, err := a.openService()
		if err != nil {
			return nil, nil, err
		}
		e, err := c.Entry(ctx, id)
		if err == nil {
			return c, []apitype.Entry{e}, nil
		}
		if !client.IsNotFound(err) {
			return nil, nil, err
		}
	}
	about, err := a.subject(ctx, text)
	if err != nil {
		return nil, nil, err
	}
	c, err := a.serviceFor(ctx, about)
	if err != nil {
		return nil, nil, err
	}
	all, err := entriesAbout(ctx, c, about)
	return c, all, err
}

// entriesAbout lists all that is registered about an artifact.
func entriesAbout(ctx context.Context, c *client.Client, about subject) ([]apitype.Entry, error) {
	if about.digest == "" {
		return nil, usage("%s has no digest to look for", about.text)
	}
	list, err := findAll(ctx, c, client.Query{Artifacts: []statement.Digest{about.digest}})
	if err == nil && len(list.Entries) == 0 {
		err = fail(exitNoStatement, "nothing is registered about %s", about.text).
			line("Digest", "%s", about.digest).try("scitt attach or scitt submit registers a claim")
	}
	return list.Entries, err
}
