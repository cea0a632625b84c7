package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// part is what fetch can deliver of an entry, and how its file's name ends (RFC
// 9943 §10 for the two media types it registers).
type part struct{ name, ending string }

var parts = []part{
	{"statement", ".scitt"},
	{"receipt", ".receipt"},
	{freshReceipt, ".fresh.receipt"},
	{"transparent", ".cose"},
	{"evidence", ".evidence"},
	{"collateral", ".collateral.json"},
}

// freshReceipt is what --fresh makes of the part "receipt".
const freshReceipt = "fresh receipt"

// fetched is one file that fetch wrote, or could not.
type fetched struct {
	EntryID string `json:"entryId"`
	Part    string `json:"part"`
	File    string `json:"file,omitempty"`
	Missing string `json:"missing,omitempty"` // why there is no file
}

func fetchCommand(a *app) *cobra.Command {
	var what []string
	var fresh bool
	cmd := &cobra.Command{
		Use: "fetch ENTRY|SUBJECT -o DIR", Args: cobra.ExactArgs(1),
		Short:   "Write statements, receipts and evidence into a folder",
		Long:    "Write what is registered into a folder, for an archive or an audit. Evidence that\nis gone from the registry is said to be; the rest is delivered.",
		Example: "  scitt fetch registry.example/net-monitor:v1 -o audit --what transparent,evidence",
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output == "" || a.output == "-" {
				return usage("fetch writes files").try("add -o DIR")
			}
			if fresh {
				if !slices.Contains(what, "receipt") {
					return usage("--fresh is about receipts").try("add --what receipt")
				}
				what[slices.Index(what, "receipt")] = freshReceipt
			}
			return a.fetch(cmd.Context(), args[0], what)
		},
	}
	var names []string
	for _, p := range parts {
		if p.name != freshReceipt {
			names = append(names, p.name)
		}
	}
	cmd.Flags().StringSliceVar(&what, "what", []string{"transparent"}, "what to write: "+strings.Join(names, ", "))
	cmd.Flags().BoolVar(&fresh, "fresh", false, "with --what receipt: under the newest head, to show that the log still holds the entry")
	return cmd
}

func (a *app) fetch(ctx context.Context, text string, what []string) error {
	for _, name := range what {
		if endingOf(name) == "" {
			return usage("--what %q is no part of an entry", name).try("scitt fetch --help")
		}
	}
	c, entries, err := a.entries(ctx, text)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.output, 0o755); err != nil {
		return err
	}
	var all []fetched
	for _, e := range entries {
		id, err := statement.ParseID(e.EntryID)
		if err != nil {
			return err
		}
		for _, name := range what {
			f := fetched{EntryID: e.EntryID, Part: name, File: filepath.Join(a.output, e.EntryID[:12]+endingOf(name))}
			if err := a.fetchPart(ctx, c, id, e.Evidence, &f); err != nil {
				return err
			}
			all = append(all, f)
		}
	}
	return a.report("Fetched", all, func(w io.Writer) {
		for _, f := range all {
			if f.Missing != "" {
				fmt.Fprintf(w, "Missing  %-11s  entry %s  %s\n", f.Part, abbreviate(f.EntryID), clean(f.Missing))
				continue
			}
			fmt.Fprintf(w, "Wrote    %-11s  %s\n", f.Part, f.File)
		}
	})
}

func endingOf(name string) string {
	i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
	if i < 0 {
		return ""
	}
	return parts[i].ending
}

// fetchPart writes one part of one entry.
func (a *app) fetchPart(ctx context.Context, c *client.Client, id statement.ID, evidence apitype.Evidence, f *fetched) error {
	var content []byte
	var err error
	switch f.Part {
	case "statement":
		content, err = c.Statement(ctx, id)
	case "receipt":
		content, err = c.Receipt(ctx, id)
	case freshReceipt:
		content, err = c.FreshReceipt(ctx, id)
	case "transparent":
		content, err = c.Transparent(ctx, id)
	case "collateral":
		var list apitype.CollateralList
		if list, err = c.Collateral(ctx, id); err == nil {
			content, err = json.MarshalIndent(list, "", "  ")
		}
	case "evidence":
		if err := a.fetchEvidence(ctx, c, id, evidence, f.File); err != nil {
			f.File, f.Missing = "", err.Error()
			if gone(evidence) {
				f.Missing = evidenceText(evidence)
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(f.File, content, 0o644)
}

// fetchEvidence takes the evidence from the statement or from where it was
// placed; only bytes of the signed digest count, or of the known one where the
// payload is detached.
func (a *app) fetchEvidence(ctx context.Context, c *client.Client, id statement.ID, known apitype.Evidence, file string) error {
	raw, err := c.Statement(ctx, id)
	if err != nil {
		return err
	}
	s, err := statement.Parse(raw)
	if err != nil {
		return err
	}
	digest := s.Evidence()
	if s.Detached() {
		if digest, err = statement.ParseDigest(known.Digest); err != nil {
			return err
		}
	} else if s.Envelope == nil {
		return os.WriteFile(file, s.Payload, 0o644)
	}
	deliveries, err := c.Deliveries(ctx, id)
	if err != nil {
		return err
	}
	reason := fmt.Errorf("%s was placed nowhere; the claim and its receipt remain", digest)
	for _, d := range deliveries {
		if d.Artifact != "evidence" || d.State != "done" {
			continue
		}
		if reason = a.fetchBlob(ctx, d, digest, file); reason == nil {
			return nil
		}
	}
	return reason
}

// fetchBlob leaves a file only if it holds the bytes of that digest: storage
// compares them at their end.
func (a *app) fetchBlob(ctx context.Context, d apitype.Delivery, digest statement.Digest, file string) error {
	registry, err := a.registry(d.Registry)
	if err != nil {
		return err
	}
	repo, err := registry.Repository(d.Repository)
	if err != nil {
		return err
	}
	blob, _, err := repo.Blob(ctx, string(digest))
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%s is gone from %s/%s; the claim and its receipt remain", digest, d.Registry, d.Repository)
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, blob)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}
