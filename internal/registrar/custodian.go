package registrar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
	"github.com/scittd/scittd/storage"
)

// Custodian knows where evidence is, and lets it go when somebody may say so. A
// purge is declared in the ledger first and carried out in the registry then,
// however often it takes: so it survives every crash, and a registry's trouble
// neither delays nor fails it. Nothing that it does touches the log.
//
// It meets the Courier in the ledger alone. Who is placing evidence while it is
// purged looks for the mark behind its own work (see placed), and who purges
// removes what the registry has behind its mark: whichever comes last, nothing
// stays.
type Custodian struct {
	ledger     *ledger.Ledger
	evidences  Evidences
	registries func(host string) (storage.Registry, error)
	o          CustodianOptions
	wake       chan struct{}
	images     imageIndexes
}

// Evidences is what a Custodian needs of a store.
type Evidences interface {
	ledger.Evidences
	ledger.Claims
	ledger.Leases
	Intervene(ctx context.Context, d ledger.Delivery, i ledger.Intervention) error
}

// CustodianOptions are settings of NewCustodian; zero values take the default.
type CustodianOptions struct {
	Owner    string        // names this process in leases
	Registry string        // host that claims are placed in, as deliveries name it
	Poll     time.Duration // how often to look for what others have declared; 5 s
	Timeout  time.Duration // of removing one piece of evidence; 1 min
	// Grace is how long evidence stays that was purged by a deletion through the
	// registry: who deletes an image may be about to delete what hangs on it, and
	// would find it gone; 1 min.
	Grace time.Duration
	// URL is where clients find a blob of a repository; nil, or "": they have it
	// from here.
	URL   func(host, repository string, blob statement.Digest) string
	Clock func() time.Time
	Log   *slog.Logger
}

// NewCustodian returns a Custodian that finds a registry by the host a delivery
// names. Start it with Run.
func NewCustodian(l *ledger.Ledger, e Evidences, registries func(host string) (storage.Registry, error), o CustodianOptions) *Custodian {
	if o.Poll == 0 {
		o.Poll = 5 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Grace == 0 {
		o.Grace = time.Minute
	}
	if o.URL == nil {
		o.URL = func(string, string, statement.Digest) string { return "" }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Custodian{ledger: l, evidences: e, registries: registries, o: o, wake: make(chan struct{}, 1), images: newImageIndexes()}
}

// Claims is ledger.Claims'.
func (c *Custodian) Claims(ctx context.Context, q ledger.Query, instances bool) ([]ledger.Claim, error) {
	return c.evidences.Claims(ctx, q, instances)
}

// Absences is ledger.Evidences'.
func (c *Custodian) Absences(ctx context.Context, entries []uint64) ([]ledger.Absence, error) {
	return c.evidences.Absences(ctx, entries)
}

// URL is where clients find a blob where d was placed, "" when they have it from
// here.
func (c *Custodian) URL(d ledger.Delivery, blob statement.Digest) string {
	return c.o.URL(d.Registry, d.Repository, blob)
}

// Purge declares the evidence of an entry that scope shows purged: its bytes
// everywhere, and so for every claim that speaks of them. What was declared
// before stays as it was. ErrNotFound: no such entry, or it speaks of no
// evidence.
func (c *Custodian) Purge(ctx context.Context, id statement.ID, scope ledger.Scope, who, why string) error {
	record, err := c.ledger.Record(ctx, id, scope)
	if err != nil {
		return err
	}
	if record.Evidence == "" {
		return fmt.Errorf("entry %s speaks of no evidence: %w", id, ledger.ErrNotFound)
	}
	m := ledger.Marking{
		Evidence: []statement.Digest{record.Evidence}, State: ledger.EvidencePurged, At: c.o.Clock(), Who: who, Why: why,
	}
	if s, err := statement.Parse(record.Canonical); err == nil && s.Attached() {
		m.Size = int64(len(s.Payload))
	}
	return c.mark(ctx, m)
}

func (c *Custodian) mark(ctx context.Context, m ledger.Marking) error {
	n, err := c.evidences.Mark(ctx, m)
	if err != nil {
		return err
	}
	if n > 0 {
		c.o.Log.InfoContext(ctx, "evidence "+m.State, "evidence", m.Evidence, "repository", m.Repository,
			"subject", m.Subject, "marks", n, "who", m.Who, "why", m.Why)
		c.Wake()
	}
	return nil
}

// Deleting looks at what is about to be deleted from a repository of the own
// registry, a manifest or a blob, by digest. done is nil when no claim is
// concerned, or nobody can tell; else it is to be called once it is deleted.
func (c *Custodian) Deleting(ctx context.Context, repository, reference string, blob bool) (done func(ctx context.Context, who string) error) {
	digest, err := statement.ParseDigest(reference)
	if err != nil {
		return nil // a tag: what it leads to stays
	}
	at := ledger.Marking{Registry: c.o.Registry, Repository: repository, State: ledger.EvidencePurged, Why: evidenceDeleted}
	var marks []ledger.Marking
	if blob {
		at.Evidence = []statement.Digest{digest}
		marks = append(marks, at)
	} else {
		about := at
		about.Subject, about.Why = digest, imageDeleted
		marks = append(marks, about)
		if carried, ok := c.carried(ctx, at, digest); ok {
			marks = append(marks, carried)
		}
	}
	return func(ctx context.Context, who string) error {
		var errs []error
		for _, m := range marks {
			m.At, m.Who = c.o.Clock(), who
			errs = append(errs, c.mark(ctx, m))
		}
		return errors.Join(errs...)
	}
}

// carried is the marking of what an artifact carries.
func (c *Custodian) carried(ctx context.Context, at ledger.Marking, manifest statement.Digest) (ledger.Marking, bool) {
	repo, err := c.repository(at.Registry, at.Repository)
	if err != nil {
		return at, false
	}
	_, body, err := repo.Manifest(ctx, string(manifest))
	if err != nil {
		return at, false
	}
	a := storage.ReadAttached(body)
	if at.Subject, err = statement.ParseDigest(a.Subject); err != nil {
		return at, false
	}
	for _, l := range a.Layers {
		if d, err := statement.ParseDigest(l.Digest); err == nil {
			at.Evidence, at.Size = append(at.Evidence, d), l.Size
		}
	}
	if len(at.Evidence) > 1 {
		at.Size = 0 // of which?
	}
	return at, len(at.Evidence) > 0
}

// Seen is told what a look into a registry showed of evidence that was placed:
// there, or gone. What is gone is missing until it is there again, or an operator
// declares it purged.
func (c *Custodian) Seen(ctx context.Context, d ledger.Delivery, evidence statement.Digest, there bool) error {
	if there {
		return c.evidences.Found(ctx, d.Place(), evidence)
	}
	_, err := c.evidences.Mark(ctx, ledger.Marking{
		Registry: d.Registry, Repository: d.Repository, Subject: d.Subject, Evidence: []statement.Digest{evidence},
		State: ledger.EvidenceMissing, At: c.o.Clock(), Who: c.o.Owner, Why: "found gone",
	})
	return err
}

// errPurged: what was to be placed has been purged.
var errPurged = errors.New(ledger.PurgedDelivery)

// markOf is what the ledger knows of the evidence of d at its place, or at all;
// nil: nothing.
func (c *Custodian) markOf(ctx context.Context, d ledger.Delivery) (*ledger.Absence, error) {
	absences, err := c.evidences.Absences(ctx, []uint64{d.Entry})
	for i := range slices.Backward(absences) { // that of all its evidence comes first
		if at := absences[i].Place; at == d.Place() || at == (ledger.Place{}) {
			return &absences[i], nil
		}
	}
	return nil, err
}

// mayPlace is asked before evidence is placed: errPurged, where it is not to be.
func (c *Custodian) mayPlace(ctx context.Context, d ledger.Delivery) error {
	if c == nil {
		return nil
	}
	mark, err := c.markOf(ctx, d)
	if err == nil && mark != nil && mark.State == ledger.EvidencePurged {
		err = errPurged
	}
	return err
}

// placed is told when evidence was just placed, or perhaps half of it (whole is
// false). What was missing is found; what was purged meanwhile is to be removed
// again: errPurged.
func (c *Custodian) placed(ctx context.Context, d ledger.Delivery, evidence statement.Digest, whole bool) error {
	if c == nil {
		return nil
	}
	mark, err := c.markOf(ctx, d)
	switch {
	case err != nil || mark == nil:
		return err
	case mark.State == ledger.EvidenceMissing && !whole:
		return nil
	case mark.State == ledger.EvidenceMissing:
		return c.evidences.Found(ctx, d.Place(), evidence)
	}
	if err := c.evidences.RemoveAgain(ctx, d.Entry, d.Place()); err != nil {
		return err
	}
	c.Wake()
	return errPurged
}

// What a deletion through the registry was of.
const (
	imageDeleted    = "the image was deleted through the registry"
	evidenceDeleted = "deleted through the registry"
)

// Gone says whether an image was deleted through the registry, as far as a claim
// was about it: then nobody need wait for it.
func (c *Custodian) Gone(ctx context.Context, at ledger.Place) (bool, error) {
	return c.evidences.Marked(ctx, at, imageDeleted)
}

// Open opens evidence where it was placed; ledger.ErrNotFound.
func (c *Custodian) Open(ctx context.Context, d ledger.Delivery, evidence statement.Digest) (io.ReadCloser, int64, error) {
	repo, err := c.repository(d.Registry, d.Repository)
	if err != nil {
		return nil, 0, err
	}
	blob, size, err := repo.Blob(ctx, string(evidence))
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ledger.ErrNotFound, err)
	}
	return blob, size, err
}

func (c *Custodian) repository(host, name string) (storage.Repository, error) {
	registry, err := c.registries(host)
	if err != nil {
		return nil, err
	}
	return registry.Repository(name)
}
