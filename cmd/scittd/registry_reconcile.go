package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/storage"
)

// reconciled is what the command prints.
type reconciled struct {
	Images int                `json:"images"`
	Placed int                `json:"placed"`
	Queued int                `json:"queued"`
	Found  []reconcileFinding `json:"findings"`
	More   int                `json:"more"` // findings that are not told one by one
	alarm  bool
	in     map[string]bool // repositories that something was placed in
}

type reconcileFinding struct {
	Kind       string `json:"kind"`
	Entry      string `json:"entry"`
	Artifact   string `json:"artifact"`
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	Subject    string `json:"subject"`
	Manifest   string `json:"manifest"`
	Detail     string `json:"detail,omitempty"`
	Queued     bool   `json:"queued"`
}

func (r *reconciled) add(f registrar.Finding) {
	r.alarm = r.alarm || f.Kind == registrar.OtherContent
	if len(r.Found) == maxFindings {
		r.More++
		return
	}
	d := f.Delivery
	r.Found = append(r.Found, reconcileFinding{
		Kind: f.Kind, Entry: d.EntryID.String(), Artifact: d.Artifact, Registry: d.Registry, Repository: d.Repository,
		Subject: string(d.Subject), Manifest: string(d.Manifest), Detail: f.Detail, Queued: f.Queued,
	})
}

func (r *reconciled) print(w io.Writer, dry bool) error {
	for _, f := range r.Found {
		queued := ""
		if f.Queued {
			queued = ", queued again"
		}
		detail := ""
		if f.Detail != "" {
			detail = ": " + f.Detail
		}
		fmt.Fprintf(w, "%-13s  %s of entry %s, %s/%s@%s as %s%s%s\n", f.Kind, f.Artifact, f.Entry, f.Registry, f.Repository, f.Subject, f.Manifest, detail, queued)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "and %d findings more\n", r.More)
	}
	again := "queued again"
	if dry {
		again = "to be queued again"
	}
	_, err := fmt.Fprintf(w, "%d artifacts beside %d images: %d %s\n", r.Placed, r.Images, r.Queued, again)
	return err
}

// reconciliation is what it takes to reconcile without a service.
type reconciliation struct {
	ledger  *ledger.Ledger
	db      database
	remote  *storage.Remote
	hosts   []string
	find    func(host string) (storage.Registry, error)
	options registrar.ReconcilerOptions
}

func newReconciliation(ctx context.Context, c Config, db database) (*reconciliation, error) {
	s := service{}
	s.known.open(db)
	if err := s.openRemote(c); err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, db, ledger.Options{})
	if err != nil {
		s.remote.Close()
		return nil, err
	}
	r := &reconciliation{ledger: l, db: db, remote: s.remote, hosts: s.known.hosts, find: findRegistry(c, s.remote)}
	r.options.Custodian = registrar.NewCustodian(l, db, r.find, registrar.CustodianOptions{Registry: c.registryHost(), Owner: "scittd registry reconcile"})
	return r, nil
}

func (r *reconciliation) close(ctx context.Context) error {
	r.remote.Close()
	return r.ledger.Close(ctx)
}

// all looks at everything that was placed, under every name of the registry.
func (r *reconciliation) all(ctx context.Context, out *reconciled) error {
	for _, host := range r.hosts {
		done, err := registrar.NewReconciler(r.ledger, r.db, r.find, r.options).Reconcile(ctx, host)
		maps.Copy(out.in, done.Repositories)
		out.Images, out.Placed, out.Queued = out.Images+done.Images, out.Placed+done.Placed, out.Queued+done.Queued
		if err != nil {
			return err
		}
	}
	return nil
}

// reconcile looks at the registry every so often, in one of the processes on one
// database: the one that has the lease, which runs out when the next look is due.
func (s *service) reconcile(ctx context.Context, c Config) {
	const work = "reconcile"
	every := c.Registry.Reconcile
	try := max(every/24, 10*time.Millisecond)
	find, hosts := findRegistry(c, s.registry), []string{c.registryHost()}
	if s.remote != nil {
		find, hosts = findRegistry(c, s.remote), s.known.hosts
	}
	var last time.Time
	for sleep(ctx, try/2+rand.N(try)) {
		if !last.IsZero() && time.Since(last) < every {
			continue // who has a lease would only make it longer
		}
		if given, err := s.db.Lease(ctx, work, s.owner, every); err != nil || !given {
			continue
		}
		last = time.Now()
		r := registrar.NewReconciler(s.ledger, s.db, find, registrar.ReconcilerOptions{
			Wake: s.courier.Wake, Custodian: s.custodian.Load(), Log: s.log, Found: s.foundInRegistry,
		})
		for _, host := range hosts {
			done, err := r.Reconcile(ctx, host)
			if ctx.Err() != nil {
				return
			}
			level := slog.LevelInfo
			if err != nil {
				level = slog.LevelWarn
			}
			s.log.Log(ctx, level, "reconciled", "registry", host, "images", done.Images, "placed", done.Placed, "queued", done.Queued, "err", err)
		}
	}
}

// foundInRegistry logs a finding; one that placing again cannot cure is an alarm.
func (s *service) foundInRegistry(f registrar.Finding) {
	level := slog.LevelWarn
	if f.Kind == registrar.OtherContent {
		level = slog.LevelError
	}
	d := f.Delivery
	s.log.Log(context.Background(), level, "registry differs from the ledger", "kind", f.Kind, "entry", d.EntryID, "artifact", d.Artifact,
		"repository", d.Repository, "subject", d.Subject, "manifest", d.Manifest, "detail", f.Detail, "queued", f.Queued)
}
