package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/scittd/scittd/statement"
)

// The states of an entry's evidence: where the bytes are that it speaks for. The
// two last are kept (see Evidences), the others follow from deliveries and
// Staging.
const (
	EvidenceNone    = "none"    // in no place that is known here
	EvidenceStaged  = "staged"  // uploaded, or on its way to a registry
	EvidencePlaced  = "placed"  // in a registry
	EvidenceMissing = "missing" // found gone; nobody has declared it
	EvidencePurged  = "purged"  // gone for good, by somebody's word
)

// Place is where evidence was placed, as in a Delivery. The zero Place stands for
// all of an entry's evidence, wherever it was.
type Place struct {
	Registry   string
	Repository string
	Subject    statement.Digest // OCI's subject: the image
}

// Absence is evidence that is missing or purged, at one place or at all.
type Absence struct {
	Place
	Entry     uint64
	EntryID   statement.ID
	Private   bool             // as its entry
	Evidence  statement.Digest // of the entry, as is MediaType
	MediaType string
	State     string // EvidenceMissing or EvidencePurged
	Size      int64  // of the bytes; 0: not known
	At        time.Time
	Who, Why  string
	Pending   bool         // a registry may still have the bytes
	Statement statement.ID // the entry that records the purge on the log; zero: none does
}

// Marking says of which evidence something has become known. An empty field
// admits everything, but Subject or Evidence must be given.
type Marking struct {
	Registry, Repository string
	Subject              statement.Digest
	Evidence             []statement.Digest

	State    string // EvidenceMissing or EvidencePurged
	At       time.Time
	Who, Why string
	Size     int64 // of the evidence, where the ledger knows none; 0: unknown
}

// Everywhere: the bytes go wherever they are, not at some places only.
func (m Marking) Everywhere() bool {
	return m.State == EvidencePurged && m.Registry == "" && m.Repository == "" && m.Subject == ""
}

// Removal is evidence to be removed from a registry, for it was purged.
type Removal struct {
	Place
	Entry    uint64
	Evidence statement.Digest
	At       time.Time // when it was purged, and why
	Why      string
	Asked    int              // how often before it was asked for
	Manifest statement.Digest // what was placed, and is settled; "": not known
	// ManifestNeeded, BlobNeeded: another entry, which was not purged, has the same
	// evidence on the same image, or in the same repository.
	ManifestNeeded, BlobNeeded bool
}

// Placed is Manifest, if it is known.
func (r Removal) Placed() []string {
	if r.Manifest == "" {
		return nil
	}
	return []string{string(r.Manifest)}
}

// Evidences keep what became of evidence, beside the log: no row of it says
// anything about what was registered, and no proof depends on one. Evidence is
// bytes: what is purged or gone is so for every entry that speaks of the same
// bytes at that place. Each call is one transaction, and durable on nil.
type Evidences interface {
	// Absences of entries, in order of entry, the zero Place first. An entry whose
	// evidence is where it should be has none.
	Absences(ctx context.Context, entries []uint64) ([]Absence, error)

	// Mark marks what m admits of evidence deliveries, and says how many: missing is
	// only what was done; purged is any, for what was refused or dropped may have left
	// something, and may be ordered again. What is purged stays as it was marked first; what is missing
	// may become purged. Purged deliveries that are queued end: they become
	// Dropped. When m is Everywhere, each entry with such evidence is marked as a
	// whole, whether it has deliveries or not, and staged content of that digest
	// goes.
	Mark(ctx context.Context, m Marking) (int, error)

	// Marked says whether some evidence at a place was marked for that reason.
	Marked(ctx context.Context, at Place, why string) (bool, error)

	// Found takes back what was missing at a place.
	Found(ctx context.Context, at Place, evidence statement.Digest) error

	// Removals are purged places of which a registry may still have something, of
	// at most n entries above an index, in their order.
	Removals(ctx context.Context, above int64, n int) ([]Removal, error)

	// Removed says that nothing is left of r, unless RemoveAgain was called since r
	// was read.
	Removed(ctx context.Context, r Removal) error

	// RemoveAgain says that something of purged evidence may be in the registry
	// after all.
	RemoveAgain(ctx context.Context, entry uint64, at Place) error

	// Unrecorded are purges that no statement on the log tells of, of at most n
	// entries above an index, in their order.
	Unrecorded(ctx context.Context, above int64, n int) ([]Absence, error)

	// Recorded says that a statement tells of the purges of entries.
	Recorded(ctx context.Context, entries []uint64, by statement.ID) error
}

// Claim is an entry as the answer to a question about artifacts.
type Claim struct {
	Entry
	EvidenceState string
	// Via is the image index that the entry is about, where what was asked for is a
	// manifest that it lists. Instance is such a manifest, where the index was
	// asked for. Both are empty when it is about what was asked for itself.
	Via, Instance statement.Digest
}

// Claims answer with what image indexes relate.
type Claims interface {
	// Claims is Find with the state of each entry's evidence, and of q.Artifacts
	// also finds what is claimed about an image index that lists one of them. With
	// instances, it finds what is claimed about the manifests that one of them
	// lists, too. At most MaxRelated others are looked at, and none of which
	// nothing is claimed. Artifacts that no index lists cost no further round trip.
	Claims(ctx context.Context, q Query, instances bool) ([]Claim, error)

	// KeepIndex remembers that an image index, by digest, lists manifests. The
	// caller has checked the digest of what it read. More than MaxListed are
	// refused: ErrTooLarge. Where MaxIndexes list a manifest already, only an index
	// counts of which something is claimed: whoever pushes many must not hide it.
	KeepIndex(ctx context.Context, index statement.Digest, manifests []statement.Digest) error
}

// ErrNoIndex: bytes that were said to be an image index are none, or are another.
var ErrNoIndex = errors.New("not that image index")

const (
	// MaxListed is how many manifests of one image index are kept. Those in use
	// list one for each platform, and one for each attestation.
	MaxListed = 1024
	// MaxIndexes is how many indexes are kept for one manifest, claimed or not.
	MaxIndexes = 256
	// MaxRelated is how many artifacts besides its own a query looks at.
	MaxRelated = 1024
)

// Relations are the artifacts that indexes relate to those of a query.
type Relations struct {
	Indexes   []statement.Digest // that list one of them
	Instances []statement.Digest // that one of them lists
}

// Widen returns q for the artifacts themselves and those that r relates to them.
func (r Relations) Widen(q Query) Query {
	all := make([]statement.Digest, 0, len(q.Artifacts)+len(r.Indexes)+len(r.Instances))
	seen := map[statement.Digest]bool{}
	for _, list := range [][]statement.Digest{q.Artifacts, r.Indexes, r.Instances} {
		for _, d := range list {
			if !seen[d] {
				seen[d] = true
				all = append(all, d)
			}
		}
	}
	q.Artifacts = all
	return q
}

// Explain says of claims that were found for r.Widen(q) why q finds them.
func (r Relations) Explain(q Query, claims []Claim) {
	if len(r.Indexes)+len(r.Instances) == 0 {
		return
	}
	set := func(digests []statement.Digest) map[statement.Digest]bool {
		s := make(map[statement.Digest]bool, len(digests))
		for _, d := range digests {
			s[d] = true
		}
		return s
	}
	asked, indexes, instances := set(q.Artifacts), set(r.Indexes), set(r.Instances)
	first := func(e Entry, of map[statement.Digest]bool) statement.Digest {
		for _, d := range e.Artifacts {
			if of[d] {
				return d
			}
		}
		return ""
	}
	for i := range claims {
		c := &claims[i]
		if first(c.Entry, asked) != "" {
			continue
		}
		if c.Via = first(c.Entry, indexes); c.Via == "" {
			c.Instance = first(c.Entry, instances)
		}
	}
}

// PurgedDelivery is the LastError of a delivery that a purge ended.
const PurgedDelivery = "the evidence was purged"
