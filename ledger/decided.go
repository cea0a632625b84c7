package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"

	"github.com/scittd/scittd/internal/detcbor"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// Decisions reads out what was decided about entries, for auditors who judge
// again. It is a Store's rows as they are: nothing of it is recomputed here.
type Decisions struct {
	Store interface {
		Log
		Index
		Audit
	}
}

// Decided is what was recorded of the decision about one entry.
type Decided struct {
	Entry                   // only Index and ID where Hidden
	Hidden     bool         // the scope does not show it
	Collateral []Collateral // in the order given to Commit
}

// Kept is the collateral that decision d about s leaves behind.
func Kept(s *statement.Statement, d policy.Decision) ([]Collateral, error) { return keep(s, d) }

// Decided returns the decisions about the entries from index from on, in order:
// at most limit (1..MaxPage), and not many more than PageBytes of collateral. An
// empty page is the end of the log.
func (d Decisions) Decided(ctx context.Context, from uint64, limit int, scope Scope) ([]Decided, error) {
	if from > math.MaxInt64-MaxPage {
		return nil, nil // no store counts that far
	}
	ids, err := d.Store.Leaves(ctx, from, from+uint64(min(limit, MaxPage)))
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	to := from + uint64(len(ids))
	rows, err := d.Store.Find(ctx, Query{Scope: scope, Before: to, Limit: len(ids)})
	if err != nil {
		return nil, fmt.Errorf("find the decisions about entries %d to %d: %w", from, to-1, err)
	}
	all := make([]Decided, len(ids))
	for i, id := range ids {
		all[i] = Decided{Entry: Entry{Index: from + uint64(i), ID: id}, Hidden: true}
	}
	for _, e := range rows {
		if e.Index >= from && e.Index < to {
			all[e.Index-from].Entry, all[e.Index-from].Hidden = e, false
		}
	}
	size := 0
	for at := 0; at < len(all); at += dossiersAtOnce {
		dossiers, err := d.Store.Dossiers(ctx, from+uint64(at), min(dossiersAtOnce, len(all)-at))
		if err != nil {
			return nil, fmt.Errorf("read the collateral of entries from %d on: %w", from+uint64(at), err)
		}
		for _, dossier := range dossiers {
			i := dossier.Index - from
			if dossier.Index < from || i >= uint64(len(all)) || all[i].Hidden {
				continue
			}
			if size > PageBytes {
				return all[:i], nil
			}
			all[i].Collateral = dossier.Collateral
			for _, c := range dossier.Collateral {
				size += len(c.Data)
			}
		}
	}
	return all, nil
}

// dossiersAtOnce bounds how much more is read than a page holds: what was looked up
// is there with every entry that it was looked up for.
const dossiersAtOnce = 50

// AppendDecided appends a page as auditors read it, a CBOR sequence. An item is
// told by its length:
//
//	[index, id]                     what the caller may not see
//	[n, kind, data]                 collateral number n of this page, from 0, before the entries that have it
//	[index, id, policy entry, rule, [identity kind, thumbprint, name], registered at,
//	  [subjects], private, [numbers of collateral]]
//
// IDs are byte strings, digests and thumbprints text, times seconds since 1970.
// Collateral that entries of a page share is there once.
func AppendDecided(dst []byte, page []Decided) []byte {
	const yes, no = 0xf5, 0xf4
	head := func(kind detcbor.Kind, n int) { dst = detcbor.AppendHead(dst, kind, uint64(n)) }
	text := func(s string) {
		head(detcbor.KindText, len(s))
		dst = append(dst, s...)
	}
	known := map[[sha256.Size]byte]int{}
	for _, d := range page {
		numbers := make([]int, len(d.Collateral))
		for i, c := range d.Collateral {
			name := sha256.Sum256(append([]byte(c.Kind+"\x00"), c.Data...))
			n, there := known[name]
			if !there {
				n = len(known)
				known[name] = n
				head(detcbor.KindArray, 3)
				head(detcbor.KindUint, n)
				text(c.Kind)
				dst = detcbor.AppendBytes(dst, c.Data)
			}
			numbers[i] = n
		}
		if d.Hidden {
			head(detcbor.KindArray, 2)
		} else {
			head(detcbor.KindArray, 9)
		}
		dst = detcbor.AppendHead(dst, detcbor.KindUint, d.Index)
		dst = detcbor.AppendBytes(dst, d.ID[:])
		if d.Hidden {
			continue
		}
		dst = detcbor.AppendBytes(dst, d.Policy[:])
		text(d.Rule)
		head(detcbor.KindArray, 3)
		text(d.Identity.Kind)
		text(d.Identity.Thumbprint)
		text(d.Identity.Name)
		dst = detcbor.AppendHead(dst, detcbor.KindUint, uint64(d.RegisteredAt.Unix()))
		head(detcbor.KindArray, len(d.Artifacts))
		for _, a := range d.Artifacts {
			text(string(a))
		}
		if d.Private {
			dst = append(dst, yes)
		} else {
			dst = append(dst, no)
		}
		head(detcbor.KindArray, len(numbers))
		for _, n := range numbers {
			head(detcbor.KindUint, n)
		}
	}
	return dst
}
