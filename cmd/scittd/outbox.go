package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

func outboxCommand(p process) *cobra.Command {
	return group("outbox", "List what is to be placed in the registry; retry, park or drop it",
		outboxList(p),
		outboxOrder(p, ledger.Retry, "Try deliveries again, at once", []string{ledger.Refused}, `Try deliveries again, at once: those that were refused or parked, unless --state
says otherwise. With --state queued it ends their wait; with --state done, and the
entry named, it places again what was deleted from the registry since.`),
		outboxOrder(p, ledger.Park, "Stop trying, until they are retried", []string{ledger.Queued}, `Stop trying: queued deliveries become refused, until they are retried.`),
		outboxOrder(p, ledger.Drop, "Never place deliveries", []string{ledger.Queued, ledger.Refused}, `Never place these deliveries. The claims stay in the log; what is in the registry
already stays there.`),
	)
}

// selection is which deliveries a command is about.
type selection struct {
	dir, file string
	format    string
	states    []string
	q         ledger.DeliveryQuery
	subject   string
	all       bool
}

// flags adds what chooses deliveries.
func (s *selection) flags(cmd *cobra.Command, states []string) {
	f := cmd.Flags()
	f.StringSliceVar(&s.states, "state", states, "queued, refused, dropped; or done, of a named entry")
	f.StringVar(&s.q.Registry, "registry", "", "only to this registry host")
	f.StringVar(&s.q.Repository, "repository", "", "only to this repository")
	f.StringVar(&s.subject, "subject", "", "only about the image of this digest")
	f.StringVar(&s.q.Artifact, "artifact", "", "only this artifact: evidence, transparency or archive")
	f.StringVar(&s.format, "format", "text", "text or json")
	addLocationFlags(cmd, &s.dir, &s.file)
}

// read checks what was chosen, and returns the entries that were named; the zero
// ID stands for all.
func (s *selection) read(args []string) ([]statement.ID, error) {
	if s.format != "text" && s.format != "json" {
		return nil, fmt.Errorf("%w: --format %q is none of text, json", errUsage, s.format)
	}
	if s.subject != "" {
		d, err := statement.ParseDigest(s.subject)
		if err != nil {
			return nil, fmt.Errorf("%w: --subject: %w", errUsage, err)
		}
		s.q.Subject = d
	}
	artifacts := []string{ledger.EvidenceArtifact, ledger.TransparencyArtifact, ledger.ArchiveArtifact}
	if s.q.Artifact != "" && !slices.Contains(artifacts, s.q.Artifact) {
		return nil, fmt.Errorf("%w: --artifact %q is none of %s", errUsage, s.q.Artifact, strings.Join(artifacts, ", "))
	}
	var entries []statement.ID
	for _, arg := range args {
		id, err := statement.ParseID(arg)
		if err == nil && id == (statement.ID{}) {
			err = errors.New("nothing has this ID")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: entry %.80q: %w", errUsage, arg, err)
		}
		entries = append(entries, id)
	}
	if len(entries) == 0 {
		entries = []statement.ID{{}}
	}
	for _, state := range s.states {
		q := ledger.DeliveryQuery{State: state, EntryID: entries[0], Limit: 1}
		if err := q.Check(); err != nil {
			return nil, fmt.Errorf("%w: --state: %w", errUsage, err)
		}
	}
	return entries, nil
}

// each calls do with every delivery that was chosen, until it says that it has
// enough.
func (s *selection) each(ctx context.Context, db database, entries []statement.ID, do func(ledger.Delivery) (more bool, err error)) error {
	for _, id := range entries {
		for _, state := range s.states {
			q := s.q
			q.EntryID, q.State, q.Limit = id, state, ledger.MaxPage
			for {
				page, err := db.FindDeliveries(ctx, q)
				if err != nil {
					return err
				}
				for _, d := range page {
					if more, err := do(d); err != nil || !more {
						return err
					}
				}
				if len(page) < q.Limit {
					break
				}
				q.After = &page[len(page)-1]
			}
		}
	}
	return nil
}

// shownDelivery is a delivery in the JSON of outbox list.
type shownDelivery struct {
	EntryID      string    `json:"id"`
	Index        uint64    `json:"leafIndex"`
	RegisteredAt time.Time `json:"registeredAt"`
	apitype.Delivery
}

func outboxList(p process) *cobra.Command {
	var s selection
	var limit int
	cmd := &cobra.Command{
		Use:   "list [ENTRY...]",
		Short: "List deliveries that are queued or refused",
		Long: `List what is to be placed in the registry, and why it is not there yet: the
deliveries that are queued or refused. Refused ones are not tried again before
they are retried; others are, however often that takes.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			entries, err := s.read(args)
			if err != nil {
				return err
			}
			if limit < 1 {
				return fmt.Errorf("%w: --limit %d is less than 1", errUsage, limit)
			}
			return withDatabase(cmd, p, s.dir, s.file, func(db database) error {
				list := struct {
					Deliveries []shownDelivery `json:"deliveries"`
					More       bool            `json:"more"` // than --limit
				}{Deliveries: []shownDelivery{}}
				err := s.each(cmd.Context(), db, entries, func(d ledger.Delivery) (bool, error) {
					list.More = len(list.Deliveries) == limit
					if !list.More {
						list.Deliveries = append(list.Deliveries, showDelivery(d))
					}
					return !list.More, nil
				})
				if err != nil {
					return err
				}
				if s.format == "json" {
					return printJSON(p.stdout, list)
				}
				w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "STATE\tARTIFACT\tTRIES\tNEXT\tENTRY\tIMAGE\tLAST ERROR")
				for _, d := range list.Deliveries {
					next, said := "-", "-"
					if d.NextAt != nil {
						next = d.NextAt.Format(time.RFC3339)
					}
					if d.LastError != "" {
						said = fmt.Sprintf("%q", d.LastError)
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s/%s@%s\t%s\n", d.State, d.Artifact, d.Tries, next,
						d.EntryID, d.Registry, d.Repository, d.Subject, said)
				}
				if err := w.Flush(); err != nil || !list.More {
					return err
				}
				fmt.Fprintf(p.stderr, "There are more than %d: raise --limit, or choose by state, repository or subject.\n", limit)
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "list at most so many")
	s.flags(cmd, []string{ledger.Refused, ledger.Queued})
	return cmd
}

func showDelivery(d ledger.Delivery) shownDelivery {
	shown := shownDelivery{EntryID: d.EntryID.String(), Index: d.Entry, RegisteredAt: d.Since, Delivery: apitype.Delivery{
		Registry: d.Registry, Repository: d.Repository, Subject: string(d.Subject), Artifact: d.Artifact,
		State: d.State, Tries: d.Tries, LastError: d.LastError, Manifest: string(d.Manifest),
	}}
	if d.State == ledger.Queued {
		shown.NextAt = &d.NextAt
	}
	return shown
}

// outboxOrder is retry, park or drop.
func outboxOrder(p process, action, short string, states []string, long string) *cobra.Command {
	var s selection
	var who, why string
	cmd := &cobra.Command{
		Use:   action + " ENTRY...|--all",
		Short: short,
		Long:  long + "\nWho did it and why is kept beside the delivery.",
		RunE: func(cmd *cobra.Command, args []string) error {
			entries, err := s.read(args)
			if err != nil {
				return err
			}
			chosen := s.q.Registry != "" || s.q.Repository != "" || s.q.Subject != "" || s.q.Artifact != ""
			if len(args) == 0 && !chosen && !s.all {
				return fmt.Errorf("%w: name entries, choose by --registry, --repository, --subject or --artifact, or say --all\nTry:   scittd outbox list", errUsage)
			}
			order := ledger.Intervention{Action: action, Who: who, Why: why}
			for _, name := range []string{p.env("SUDO_USER"), p.env("USER"), "operator"} {
				if order.Who == "" {
					order.Who = name
				}
			}
			return withDatabase(cmd, p, s.dir, s.file, func(db database) error {
				return s.order(cmd.Context(), p, db, entries, order)
			})
		},
	}
	cmd.Flags().StringVar(&who, "who", "", "who orders it (default: the user's name)")
	cmd.Flags().StringVar(&why, "why", "", "why, for the record")
	cmd.Flags().BoolVar(&s.all, "all", false, "every delivery in the state")
	s.flags(cmd, states)
	return cmd
}

// order does it to every delivery that was chosen.
func (s *selection) order(ctx context.Context, p process, db database, entries []statement.ID, order ledger.Intervention) error {
	now, err := db.Now(ctx)
	if err != nil {
		return err
	}
	order.At = now
	changed := []shownDelivery{}
	err = s.each(ctx, db, entries, func(d ledger.Delivery) (bool, error) {
		err := db.Intervene(ctx, d, order)
		if errors.Is(err, ledger.ErrOtherState) || errors.Is(err, ledger.ErrNotFound) {
			return true, nil // it was placed meanwhile
		}
		if err == nil {
			if d, err = order.Apply(d); err == nil {
				changed = append(changed, showDelivery(d))
			}
		}
		return true, err
	})
	if s.format == "json" {
		err = errors.Join(err, printJSON(p.stdout, struct {
			Action     string          `json:"action"`
			Deliveries []shownDelivery `json:"deliveries"`
		}{order.Action, changed}))
	} else {
		for _, d := range changed {
			fmt.Fprintf(p.stdout, "%s  %s of %s to %s/%s@%s\n", d.State, d.Artifact, d.EntryID, d.Registry, d.Repository, d.Subject)
		}
	}
	if err == nil && len(changed) == 0 {
		try := "scittd outbox list --state queued,refused,dropped"
		if order.Action == ledger.Retry && s.all {
			try += "; what is queued is tried again by itself, and at once by scittd outbox retry --all --state queued"
		}
		err = fmt.Errorf("no delivery fits: none is %s\nTry:   %s", strings.Join(s.states, " or "), try)
	}
	return err
}
