package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var _ ledger.Evidences = (*Store)(nil)

const (
	absenceColumns = `k."index", e.entry_id, e.private, e.evidence, m.text, k.registry, k.repository, k.subject,
		k.state, k.size, k.at, k.who, k.why, NOT k.removed, st.entry_id`
	absenceJoins = ` JOIN entries e ON e."index" = k."index"
		JOIN media_types m ON m.id = e.media_type_id
		LEFT JOIN entries st ON st."index" = k.statement`
	absenceOrder = ` ORDER BY k."index", k.registry, k.repository, k.subject`
)

// absences reads rows of absenceColumns.
func (s *Store) absences(ctx context.Context, query string, args ...any) ([]ledger.Absence, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var all []ledger.Absence
	for rows.Next() {
		var a ledger.Absence
		var id, recorded []byte
		var at int64
		if err := rows.Scan(&a.Entry, &id, &a.Private, &a.Evidence, &a.MediaType, &a.Registry, &a.Repository, &a.Subject,
			&a.State, &a.Size, &at, &a.Who, &a.Why, &a.Pending, &recorded); err != nil {
			return nil, classify(err)
		}
		a.At = fromMillis(at)
		if a.EntryID, err = entryID(a.Entry, id); err != nil {
			return nil, err
		}
		if recorded != nil {
			if a.Statement, err = entryID(a.Entry, recorded); err != nil {
				return nil, err
			}
		}
		all = append(all, a)
	}
	return all, classify(rows.Err())
}

// Absences of entries.
func (s *Store) Absences(ctx context.Context, entries []uint64) ([]ledger.Absence, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	return s.absences(ctx, `SELECT `+absenceColumns+` FROM evidence_marks k`+absenceJoins+`
		WHERE k."index" IN (SELECT value FROM json_each(?))`+absenceOrder, list(entries))
}

// Conditions on an evidence delivery d, of entry e.
const (
	// unmarked: it is where it was placed, as far as is known.
	unmarked = `NOT EXISTS (SELECT 1 FROM evidence_marks k WHERE k."index" = d."index" AND k.registry = d.registry
		AND k.repository = d.repository AND k.subject = d.subject)`

	// speaking are the entries that speak of evidence ?1 or, where that is an empty
	// list, are about the image ?2 or came for it.
	speaking = `(SELECT "index", evidence FROM entries WHERE evidence IN (SELECT value FROM json_each(?1)) AND evidence <> ''
		UNION SELECT e."index", e.evidence FROM entry_subjects es JOIN entries e ON e."index" = es."index"
			WHERE json_array_length(?1) = 0 AND es.digest = ?2 AND e.evidence <> ''
		UNION SELECT e."index", e.evidence FROM audit a JOIN entries e ON e."index" = a."index"
			WHERE json_array_length(?1) = 0 AND a.image = ?2 AND a.image <> '' AND e.evidence <> ''
		UNION SELECT e."index", e.evidence FROM later_images l JOIN entries e ON e."index" = l."index"
			WHERE json_array_length(?1) = 0 AND l.image = ?2 AND e.evidence <> '')`

	// sized is how large evidence is: what was placed tells, or what is staged, or ?3.
	sized = `coalesce(nullif((SELECT max(d.size) FROM entries o JOIN deliveries d ON d."index" = o."index"
			WHERE o.evidence = e.evidence AND o.evidence <> '' AND d.artifact = 'evidence'), 0),
		(SELECT size FROM staged WHERE staged.digest = e.evidence), ?3)`
)

// Mark marks evidence deliveries, and entries as a whole.
func (s *Store) Mark(ctx context.Context, m ledger.Marking) (int, error) {
	if m.Subject == "" && len(m.Evidence) == 0 {
		return 0, fmt.Errorf("mark evidence as %s: neither which nor of which image", m.State)
	}
	if m.Evidence == nil {
		m.Evidence = []statement.Digest{} // null would be no list
	}
	marked := int64(0)
	err := s.update(ctx, func(tx *sql.Tx) error {
		args := []any{list(m.Evidence), string(m.Subject), m.Size, millis(m.At), m.Who, m.Why, m.State, m.Registry, m.Repository}
		mark := func(query string) error {
			done, err := tx.ExecContext(ctx, query, args...)
			if err != nil {
				return err
			}
			n, err := done.RowsAffected()
			marked += n
			return err
		}
		if m.Everywhere() {
			if err := mark(`INSERT INTO evidence_marks ("index", registry, repository, subject, state, size, at, who, why, removed)
				SELECT e."index", '', '', '', ?7, ` + sized + `, ?4, ?5, ?6, 1 FROM ` + speaking + ` e WHERE ?8 = ?9
				ON CONFLICT DO NOTHING`); err != nil {
				return err
			}
		}
		if err := mark(`INSERT INTO evidence_marks ("index", registry, repository, subject, state, size, at, who, why, removed)
			SELECT d."index", d.registry, d.repository, d.subject, ?7, ` + sized + `, ?4, ?5, ?6, ?7 <> 'purged'
			FROM ` + speaking + ` e JOIN deliveries d ON d."index" = e."index"
			WHERE d.artifact = 'evidence' AND (d.state = 'done' OR ?7 = 'purged')
			  AND (?8 = '' OR d.registry = ?8) AND (?9 = '' OR d.repository = ?9) AND (?2 = '' OR d.subject = ?2)
			ON CONFLICT ("index", registry, repository, subject) DO UPDATE
			SET state = excluded.state, size = max(size, excluded.size), at = excluded.at, who = excluded.who, why = excluded.why, removed = 0
			WHERE state = 'missing' AND excluded.state = 'purged'`); err != nil || m.State != ledger.EvidencePurged {
			return err
		}
		// Whoever is placing it now finds the mark when it has, and takes it back.
		if _, err := tx.ExecContext(ctx, `UPDATE deliveries SET state = 'dropped', last_error = ?3, lease_owner = '', leased_until = 0
			WHERE state = 'queued' AND artifact = 'evidence' AND "index" IN (SELECT "index" FROM `+speaking+`)
			AND EXISTS (SELECT 1 FROM evidence_marks k WHERE k."index" = deliveries."index" AND k.registry = deliveries.registry
				AND k.repository = deliveries.repository AND k.subject = deliveries.subject AND k.state = 'purged')`,
			list(m.Evidence), string(m.Subject), ledger.PurgedDelivery); err != nil || !m.Everywhere() {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM staged WHERE digest IN (SELECT value FROM json_each(?))`, list(m.Evidence))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("mark evidence as %s: %w", m.State, err)
	}
	return int(marked), nil
}

// Marked says whether evidence at a place was marked for a reason.
func (s *Store) Marked(ctx context.Context, at ledger.Place, why string) (marked bool, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM `+speaking+` e JOIN evidence_marks k ON k."index" = e."index"
		WHERE k.subject = ?2 AND k.registry = ?3 AND k.repository = ?4 AND k.why = ?5)`,
		`[]`, string(at.Subject), at.Registry, at.Repository, why).Scan(&marked)
	return marked, classify(err)
}

// Found takes back what was missing.
func (s *Store) Found(ctx context.Context, at ledger.Place, evidence statement.Digest) error {
	return s.mark(ctx, `DELETE FROM evidence_marks WHERE state = 'missing' AND registry = ? AND repository = ? AND subject = ?
		AND "index" IN (SELECT "index" FROM entries WHERE evidence = ? AND evidence <> '')`,
		at.Registry, at.Repository, string(at.Subject), string(evidence))
}

// Removed says that nothing is left.
func (s *Store) Removed(ctx context.Context, r ledger.Removal) error {
	return s.mark(ctx, `UPDATE evidence_marks SET removed = 1
		WHERE "index" = ? AND registry = ? AND repository = ? AND subject = ? AND asked = ?`,
		int64(r.Entry), r.Registry, r.Repository, string(r.Subject), r.Asked)
}

// RemoveAgain says that something may be there.
func (s *Store) RemoveAgain(ctx context.Context, entry uint64, at ledger.Place) error {
	return s.mark(ctx, `UPDATE evidence_marks SET removed = 0, asked = asked + 1
		WHERE "index" = ? AND registry = ? AND repository = ? AND subject = ? AND state = 'purged'`,
		int64(entry), at.Registry, at.Repository, string(at.Subject))
}

func (s *Store) mark(ctx context.Context, query string, args ...any) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("note what is left of evidence: %w", err)
	}
	return nil
}

// Removals are purged places that a registry may know nothing of yet.
func (s *Store) Removals(ctx context.Context, above int64, n int) ([]ledger.Removal, error) {
	const needed = `EXISTS (SELECT 1 FROM entries o JOIN deliveries d ON d."index" = o."index"
		WHERE o.evidence = e.evidence AND o.evidence <> '' AND d.artifact = 'evidence' AND d.state IN ('done', 'queued') AND ` + unmarked + `
		  AND d.registry = p.registry AND d.repository = p.repository`
	rows, err := s.read.QueryContext(ctx, `SELECT e."index", p.registry, p.repository, p.subject, e.evidence, p.at, p.why, p.asked,
			coalesce(was.manifest, ''), `+needed+` AND d.subject = p.subject), `+needed+`)
		FROM evidence_marks p JOIN entries e ON e."index" = p."index"
		LEFT JOIN deliveries was ON was."index" = p."index" AND was.registry = p.registry AND was.repository = p.repository
			AND was.subject = p.subject AND was.artifact = 'evidence'
		WHERE NOT p.removed AND p."index" IN (
			SELECT DISTINCT "index" FROM evidence_marks WHERE NOT removed AND "index" > ? ORDER BY "index" LIMIT ?)
		ORDER BY p."index", p.registry, p.repository, p.subject`, above, n)
	if err != nil {
		return nil, fmt.Errorf("look for evidence to remove: %w", classify(err))
	}
	defer rows.Close()
	var all []ledger.Removal
	for rows.Next() {
		var r ledger.Removal
		var at int64
		if err := rows.Scan(&r.Entry, &r.Registry, &r.Repository, &r.Subject, &r.Evidence, &at, &r.Why, &r.Asked, &r.Manifest, &r.ManifestNeeded, &r.BlobNeeded); err != nil {
			return nil, classify(err)
		}
		r.At = fromMillis(at)
		all = append(all, r)
	}
	return all, classify(rows.Err())
}

// Unrecorded are purges that the log does not tell of.
func (s *Store) Unrecorded(ctx context.Context, above int64, n int) ([]ledger.Absence, error) {
	const open = `k.state = 'purged' AND k.statement IS NULL`
	return s.absences(ctx, `SELECT `+absenceColumns+` FROM evidence_marks k`+absenceJoins+`
		WHERE `+open+` AND k."index" IN (SELECT DISTINCT k."index" FROM evidence_marks k
			WHERE `+open+` AND k."index" > ? ORDER BY k."index" LIMIT ?)`+absenceOrder, above, n)
}

// Recorded says which statement tells of purges.
func (s *Store) Recorded(ctx context.Context, entries []uint64, by statement.ID) error {
	err := s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE evidence_marks SET statement = (SELECT "index" FROM entries WHERE entry_id = ?)
			WHERE "index" IN (SELECT value FROM json_each(?)) AND state = 'purged' AND statement IS NULL`, by[:], list(entries))
		return err
	})
	if err != nil {
		return fmt.Errorf("note which statement tells of purges: %w", err)
	}
	return nil
}
