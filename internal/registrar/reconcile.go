package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/storage"
)

// What a look into a registry shows of something that was placed there.
const (
	NotListed    = "not listed"    // the list does not show it
	NotThere     = "not there"     // the list shows it, but it is gone, or its blob is
	ImageGone    = "image gone"    // the image is not there any more: nothing to refer to
	OtherContent = "other content" // something else stands where it was, or passes for it
)

// Finding is something that is not as it was placed. Queued: it is placed again.
type Finding struct {
	Kind     string
	Delivery ledger.Delivery
	Detail   string
	Queued   bool
}

// Reconciliation counts what was looked at.
type Reconciliation struct {
	Images   int            `json:"images"`
	Placed   int            `json:"placed"` // artifacts
	Queued   int            `json:"queued"` // to be placed again
	Findings map[string]int `json:"findings"`

	Repositories map[string]bool `json:"-"` // that something was placed in
}

// Reconciler holds what a registry lists against what the ledger knows to be
// placed there. What is missing goes back to the Courier, although its delivery
// was settled: placing again makes the same manifest. What stands in its place
// it only reports, for no second push can cure that.
type Reconciler struct {
	store      Reconciled
	ledger     *ledger.Ledger
	registries func(host string) (storage.Registry, error)
	o          ReconcilerOptions
}

// Reconciled is what a Reconciler needs of a store.
type Reconciled interface {
	ledger.Projection
	ledger.Backlog
	ledger.Evidences
}

// ReconcilerOptions are settings of NewReconciler; zero values take the default.
type ReconcilerOptions struct {
	Who          string        // in whose name deliveries are queued again; "reconcile"
	Repositories []string      // look at these alone
	DryRun       bool          // only look
	Found        func(Finding) // hears of every finding
	Wake         func()        // called when something was queued
	Custodian    *Custodian    // hears of evidence that is gone, or there again
	Timeout      time.Duration // for one image; 1 min
	Clock        func() time.Time
	Log          *slog.Logger
}

// NewReconciler returns one that finds a registry by the host a delivery names.
func NewReconciler(l *ledger.Ledger, s Reconciled, registries func(host string) (storage.Registry, error), o ReconcilerOptions) *Reconciler {
	if o.Who == "" {
		o.Who = "reconcile"
	}
	if o.Found == nil {
		o.Found = func(Finding) {}
	}
	if o.Wake == nil {
		o.Wake = func() {}
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Reconciler{store: s, ledger: l, registries: registries, o: o}
}

const (
	reconcilePage = 200 // pairs of image and entry
	// unreadInARow are the images after which a registry is taken to be away.
	unreadInARow = 5
)

// Reconcile looks at all that was placed at a registry, image by image. An error
// says what could not be looked at; everything else was.
func (r *Reconciler) Reconcile(ctx context.Context, registry string) (Reconciliation, error) {
	done := Reconciliation{Findings: map[string]int{}, Repositories: map[string]bool{}}
	var unread []error
	failures := 0
	var held []ledger.Delivery // of one image, perhaps not all of them
	look := func() error {
		if len(held) == 0 {
			return nil
		}
		err := r.image(ctx, held, &done)
		held = nil
		if err == nil {
			failures = 0
			return nil
		}
		if failures++; ctx.Err() != nil || failures == unreadInARow {
			return err
		}
		if len(unread) < 10 {
			unread = append(unread, err)
		}
		return nil
	}
	for mark, more := (ledger.PlacedMark{}), true; more; {
		page, next, err := r.store.Placed(ctx, registry, mark, reconcilePage)
		if err != nil {
			return done, err
		}
		for _, d := range page {
			if len(r.o.Repositories) > 0 && !slices.Contains(r.o.Repositories, d.Repository) {
				continue
			}
			done.Repositories[d.Repository] = true
			if len(held) > 0 && held[0].Subject != d.Subject || len(held) >= 4*reconcilePage {
				if err := look(); err != nil {
					return done, errors.Join(append(unread, err)...)
				}
			}
			held = append(held, d)
		}
		mark, more = next, next != ledger.PlacedMark{}
	}
	if err := look(); err != nil {
		unread = append(unread, err)
	}
	if done.Queued > 0 && !r.o.DryRun {
		r.o.Wake()
	}
	return done, errors.Join(unread...)
}

// image looks at what was placed beside one image, in every repository.
func (r *Reconciler) image(ctx context.Context, deliveries []ledger.Delivery, done *Reconciliation) error {
	done.Images++
	places := map[ledger.Place][]ledger.Delivery{}
	var order []ledger.Place
	var entries []uint64
	for _, d := range deliveries {
		if places[d.Place()] == nil {
			order = append(order, d.Place())
		}
		places[d.Place()] = append(places[d.Place()], d)
		if !slices.Contains(entries, d.Entry) {
			entries = append(entries, d.Entry)
		}
	}
	absences, err := r.store.Absences(ctx, entries)
	if err != nil {
		return err
	}
	for _, place := range order {
		looking, cancel := context.WithTimeout(ctx, r.o.Timeout)
		err := r.place(looking, place, places[place], absences, done)
		cancel()
		if err != nil {
			return fmt.Errorf("%s/%s@%s: %w", place.Registry, place.Repository, place.Subject, err)
		}
	}
	return nil
}

// place holds one list of referrers against the deliveries that are in it.
func (r *Reconciler) place(ctx context.Context, at ledger.Place, deliveries []ledger.Delivery, absences []ledger.Absence, done *Reconciliation) error {
	registry, err := r.registries(at.Registry)
	if err != nil {
		return err
	}
	repo, err := registry.Repository(at.Repository)
	if err != nil {
		return err
	}
	list, err := repo.Referrers(ctx, string(at.Subject), "")
	if err != nil {
		return err
	}
	for _, d := range deliveries {
		mark := markAt(absences, d)
		if d.Artifact == ledger.EvidenceArtifact && mark == ledger.EvidencePurged {
			continue
		}
		done.Placed++
		f := Finding{Delivery: d}
		f.Kind, f.Detail, err = r.look(ctx, repo, d, list)
		if err == nil && (f.Kind == NotListed || f.Kind == NotThere) && d.Artifact != ledger.ArchiveArtifact {
			_, _, err = repo.Manifest(ctx, string(at.Subject))
			if errors.Is(err, storage.ErrNotFound) {
				f.Kind, f.Detail, err = ImageGone, "", nil
			}
		}
		if err == nil {
			err = r.tell(ctx, f, mark)
		}
		if err == nil && f.Kind != "" {
			err = r.found(ctx, f, done)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// blobGone: of evidence the manifest is left.
const blobGone = "its manifest is there, its bytes are not"

// look says what is wrong with one delivery; "" is nothing.
func (r *Reconciler) look(ctx context.Context, repo storage.Repository, d ledger.Delivery, list []storage.Descriptor) (kind, detail string, err error) {
	name := string(d.Manifest)
	listed := storage.Unlisted(repo) || slices.ContainsFunc(list, func(l storage.Descriptor) bool { return l.Digest == name })
	if d.Artifact == ledger.ArchiveArtifact {
		name, listed = d.EntryID.String(), true // its tag
	}
	if !listed {
		return NotListed, "", nil
	}
	got, body, err := repo.Manifest(ctx, name)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return NotThere, "", nil
	case errors.Is(err, storage.ErrOtherBytes):
		return OtherContent, err.Error(), nil
	case err != nil:
		return "", "", err
	case got.Digest != string(d.Manifest):
		return OtherContent, "its tag leads to " + got.Digest, nil
	}
	ours := storage.ReadAttached(body)
	if d.Artifact == ledger.EvidenceArtifact {
		for _, l := range ours.Layers {
			if _, there, err := repo.HasBlob(ctx, l.Digest); err != nil || !there {
				return NotThere, blobGone, err
			}
		}
		return "", "", nil
	}
	for _, l := range list {
		if l.Digest == string(d.Manifest) || l.ArtifactType != storage.TransparencyType || l.Annotations["io.github.scittd.entry"] != d.EntryID.String() ||
			l.Annotations["io.github.scittd.log"] != r.ledger.Service().Origin {
			continue
		}
		if other, err := passesFor(ctx, repo, l.Digest, ours); err != nil || other {
			return OtherContent, l.Digest + " passes for the transparency artifact of this entry", err
		}
	}
	return "", "", nil
}

// passesFor: a manifest that says it is of the same entry has other layers. With
// the same ones it was made under another profile, and is as good.
func passesFor(ctx context.Context, repo storage.Repository, digest string, ours storage.Attached) (bool, error) {
	_, body, err := repo.Manifest(ctx, digest)
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrOtherBytes) {
		return false, nil // nobody can be misled by what cannot be read
	}
	if err != nil {
		return false, err
	}
	return !slices.EqualFunc(storage.ReadAttached(body).Layers, ours.Layers, func(a, b storage.Descriptor) bool { return a.Digest == b.Digest }), nil
}

// tell tells the Custodian of evidence whose bytes are gone, or there again. mark
// is what is known of them.
func (r *Reconciler) tell(ctx context.Context, f Finding, mark string) error {
	gone := f.Kind == NotThere && f.Detail == blobGone && mark == ""
	back := f.Kind == "" && mark == ledger.EvidenceMissing
	if r.o.Custodian == nil || r.o.DryRun || f.Delivery.Artifact != ledger.EvidenceArtifact || !gone && !back {
		return nil
	}
	e, err := r.ledger.Entry(ctx, f.Delivery.EntryID, ledger.All)
	if err != nil {
		return err
	}
	return r.o.Custodian.Seen(ctx, f.Delivery, e.Evidence, back)
}

// found reports f, and queues again what a Courier can cure.
func (r *Reconciler) found(ctx context.Context, f Finding, done *Reconciliation) error {
	done.Findings[f.Kind]++
	if f.Kind == NotListed || f.Kind == NotThere {
		done.Queued++
		if f.Queued = !r.o.DryRun; f.Queued {
			why := f.Kind
			if f.Detail != "" {
				why += ": " + f.Detail
			}
			err := r.store.Intervene(ctx, f.Delivery, ledger.Intervention{Action: ledger.Retry, Who: r.o.Who, Why: why, At: r.o.Clock()})
			if err != nil {
				return err
			}
		}
	}
	r.o.Found(f)
	return nil
}

// markAt is what is known of the evidence of d, at its place or at all: "" is
// nothing.
func markAt(absences []ledger.Absence, d ledger.Delivery) string {
	state := ""
	for _, a := range absences {
		if a.Entry == d.Entry && (a.Place == d.Place() || a.Place == ledger.Place{}) && state != ledger.EvidencePurged {
			state = a.State
		}
	}
	return state
}
