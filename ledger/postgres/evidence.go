package postgres

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var _ ledger.Evidences = (*Store)(nil)

const (
	absenceColumns = `k.index, e.entry_id, e.private, e.evidence, coalesce(m.text, ''), k.registry, k.repository, k.subject,
		k.state, k.size, k.at, k.who, k.why, NOT k.removed, st.entry_id`
	absenceJoins = ` JOIN entries e ON e.index = k.index
		LEFT JOIN media_types m ON m.id = e.media_type_id
		LEFT JOIN entries st ON st.index = k.statement`
)

func scanAbsence(row pgx.CollectableRow) (ledger.Absence, error) {
	var a ledger.Absence
	var id, evidence, subject, recorded []byte
	err := row.Scan(&a.Entry, &id, &a.Private, &evidence, &a.MediaType, &a.Registry, &a.Repository, &subject,
		&a.State, &a.Size, &a.At, &a.Who, &a.Why, &a.Pending, &recorded)
	if err != nil {
		return a, err
	}
	if len(id) != 32 || recorded != nil && len(recorded) != 32 {
		return a, fmt.Errorf("%w: the ID of entry %d, or of the statement about its purge", ledger.ErrCorrupt, a.Entry)
	}
	a.EntryID, a.At = statement.ID(id), a.At.UTC()
	if recorded != nil {
		a.Statement = statement.ID(recorded)
	}
	if len(subject) > 0 {
		if a.Subject, err = digest(subject); err != nil {
			return a, err
		}
	}
	a.Evidence, err = digest(evidence)
	return a, err
}

// Absences of entries.
func (s *Store) Absences(ctx context.Context, entries []uint64) ([]ledger.Absence, error) {
	found, err := collect(ctx, s.reads, scanAbsence, `SELECT `+absenceColumns+`
		FROM unnest($1::bigint[]) AS asked (index) JOIN evidence_marks k ON k.index = asked.index`+absenceJoins+`
		ORDER BY k.index, k.registry, k.repository, k.subject`, bounds(entries))
	if err != nil {
		return nil, fmt.Errorf("read what became of evidence: %w", err)
	}
	return found, nil
}

// bounds are indexes as the server can compare them.
func bounds(indexes []uint64) []int64 {
	all := make([]int64, 0, len(indexes))
	for _, i := range indexes {
		if i <= math.MaxInt64 {
			all = append(all, int64(i))
		}
	}
	return all
}

// Conditions on an evidence delivery d, of entry e.
const (
	// unmarked: it is where it was placed, as far as is known.
	unmarked = `NOT EXISTS (SELECT FROM evidence_marks k WHERE k.index = d.index AND k.registry = d.registry
		AND k.repository = d.repository AND k.subject = d.subject)`

	// speaking are the entries that speak of evidence $1 or, where that is empty, are
	// about the image $2 or came for it.
	speaking = `(SELECT e.index, e.evidence FROM unnest($1::bytea[]) AS v (value) CROSS JOIN LATERAL (
			SELECT index, evidence FROM entries WHERE substr(evidence, 1, 7) = substr(v.value, 1, 7) AND evidence = v.value) AS e
		UNION SELECT e.index, e.evidence FROM entry_subjects s JOIN entries e ON e.index = s.index
			WHERE cardinality($1::bytea[]) = 0 AND substr(s.digest, 1, 7) = substr($2::bytea, 1, 7) AND s.digest = $2
			AND e.evidence IS NOT NULL
		UNION SELECT e.index, e.evidence FROM audit a JOIN entries e ON e.index = a.index
			WHERE cardinality($1::bytea[]) = 0 AND substr(a.image, 1, 7) = substr($2::bytea, 1, 7) AND a.image = $2 AND a.image IS NOT NULL
			AND e.evidence IS NOT NULL
		UNION SELECT e.index, e.evidence FROM later_images l JOIN entries e ON e.index = l.index
			WHERE cardinality($1::bytea[]) = 0 AND substr(l.image, 1, 7) = substr($2::bytea, 1, 7) AND l.image = $2 AND e.evidence IS NOT NULL)`

	// sized is how large evidence is: what was placed tells, or what is staged, or $3.
	sized = `coalesce(nullif((SELECT max(d.size) FROM entries o JOIN deliveries d ON d.index = o.index
			WHERE substr(o.evidence, 1, 7) = substr(e.evidence, 1, 7) AND o.evidence = e.evidence AND d.artifact = 'evidence'), 0),
		(SELECT size FROM staged WHERE staged.digest = e.evidence), $3::bigint)`
)

// Mark marks evidence deliveries, and entries as a whole.
func (s *Store) Mark(ctx context.Context, m ledger.Marking) (int, error) {
	if m.Subject == "" && len(m.Evidence) == 0 {
		return 0, fmt.Errorf("mark evidence as %s: neither which nor of which image", m.State)
	}
	for _, text := range []string{m.Registry, m.Repository} {
		if !storable(text) {
			return 0, nil // no delivery goes there
		}
	}
	evidence, subject := digestBytes(m.Evidence), notNil(m.Subject.Bytes())
	marked := 0
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		marked = 0
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if m.Everywhere() {
				done, err := tx.Exec(ctx, `INSERT INTO evidence_marks (index, registry, repository, subject, state, size, at, who, why, removed)
					SELECT e.index, '', '', '', 'purged', `+sized+`, $4, $5, $6, true FROM `+speaking+` AS e
					ON CONFLICT DO NOTHING`, evidence, subject, m.Size, m.At, legible(m.Who), legible(m.Why))
				if err != nil {
					return err
				}
				marked += int(done.RowsAffected())
			}
			rows, err := tx.Query(ctx, `INSERT INTO evidence_marks AS k (index, registry, repository, subject, state, size, at, who, why, removed)
				SELECT d.index, d.registry, d.repository, d.subject, $7, `+sized+`, $4, $5, $6, $7 <> 'purged'
				FROM `+speaking+` AS e JOIN deliveries d ON d.index = e.index
				WHERE d.artifact = 'evidence' AND (d.state = 'done' OR $7 = 'purged')
				  AND ($8 = '' OR d.registry = $8) AND ($9 = '' OR d.repository = $9) AND ($2 = ''::bytea OR d.subject = $2)
				ON CONFLICT (index, registry, repository, subject) DO UPDATE
				SET state = excluded.state, size = greatest(k.size, excluded.size), at = excluded.at, who = excluded.who, why = excluded.why, removed = false
				WHERE k.state = 'missing' AND excluded.state = 'purged' RETURNING index`,
				evidence, subject, m.Size, m.At, legible(m.Who), legible(m.Why), m.State, m.Registry, m.Repository)
			if err != nil {
				return err
			}
			at, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err != nil {
				return err
			}
			marked += len(at)
			if m.State != ledger.EvidencePurged {
				return nil
			}
			// Whoever is placing it now finds the mark when it has, and takes it back.
			if _, err := tx.Exec(ctx, `UPDATE deliveries d SET state = 'dropped', last_error = $2, lease_owner = NULL, leased_until = NULL
				FROM evidence_marks k WHERE k.index = ANY($1::bigint[]) AND k.state = 'purged' AND d.index = k.index AND d.registry = k.registry
				  AND d.repository = k.repository AND d.subject = k.subject AND d.artifact = 'evidence' AND d.state = 'queued'`,
				at, ledger.PurgedDelivery); err != nil {
				return err
			}
			if !m.Everywhere() {
				return nil
			}
			_, err = tx.Exec(ctx, `DELETE FROM staged WHERE digest = ANY($1::bytea[])`, evidence)
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("mark evidence as %s: %w", m.State, err)
	}
	return marked, nil
}

// Marked says whether evidence at a place was marked for a reason.
func (s *Store) Marked(ctx context.Context, at ledger.Place, why string) (marked bool, err error) {
	if !storable(at.Registry) || !storable(at.Repository) {
		return false, nil
	}
	err = s.reads.read(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+speaking+` AS e JOIN evidence_marks k ON k.index = e.index
			WHERE k.subject = $2 AND k.registry = $3 AND k.repository = $4 AND k.why = $5)`,
			[][]byte{}, notNil(at.Subject.Bytes()), at.Registry, at.Repository, legible(why)).Scan(&marked)
	})
	if err != nil {
		return false, fmt.Errorf("look for what was marked beside %s: %w", at.Subject, err)
	}
	return marked, nil
}

// Found takes back what was missing.
func (s *Store) Found(ctx context.Context, at ledger.Place, evidence statement.Digest) error {
	if !storable(at.Registry) || !storable(at.Repository) {
		return nil
	}
	return s.mark(ctx, `DELETE FROM evidence_marks k WHERE k.state = 'missing'
		AND k.registry = $2 AND k.repository = $3 AND k.subject = $4 AND k.index = ANY(ARRAY(
			SELECT index FROM entries WHERE substr(evidence, 1, 7) = substr($1::bytea, 1, 7) AND evidence = $1))`,
		notNil(evidence.Bytes()), at.Registry, at.Repository, notNil(at.Subject.Bytes()))
}

// Removed says that nothing is left.
func (s *Store) Removed(ctx context.Context, r ledger.Removal) error {
	return s.mark(ctx, `UPDATE evidence_marks SET removed = true
		WHERE index = $1 AND registry = $2 AND repository = $3 AND subject = $4 AND asked = $5`,
		bound(r.Entry), r.Registry, r.Repository, notNil(r.Subject.Bytes()), r.Asked)
}

// RemoveAgain says that something may be there.
func (s *Store) RemoveAgain(ctx context.Context, entry uint64, at ledger.Place) error {
	return s.mark(ctx, `UPDATE evidence_marks SET removed = false, asked = asked + 1
		WHERE index = $1 AND registry = $2 AND repository = $3 AND subject = $4 AND state = 'purged'`,
		bound(entry), at.Registry, at.Repository, notNil(at.Subject.Bytes()))
}

func (s *Store) mark(ctx context.Context, sql string, args ...any) error {
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, sql, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("note what is left of evidence: %w", err)
	}
	return nil
}

// Removals are purged places that a registry may know nothing of yet.
func (s *Store) Removals(ctx context.Context, above int64, n int) ([]ledger.Removal, error) {
	const needed = `EXISTS (SELECT FROM entries o JOIN deliveries d ON d.index = o.index
		WHERE substr(o.evidence, 1, 7) = substr(e.evidence, 1, 7) AND o.evidence = e.evidence
		  AND d.artifact = 'evidence' AND d.state IN ('done', 'queued') AND ` + unmarked + `
		  AND d.registry = p.registry AND d.repository = p.repository`
	found, err := collect(ctx, s.work, func(row pgx.CollectableRow) (ledger.Removal, error) {
		var r ledger.Removal
		var subject, evidence, manifest []byte
		err := row.Scan(&r.Entry, &r.Registry, &r.Repository, &subject, &evidence, &r.At, &r.Why, &r.Asked, &manifest, &r.ManifestNeeded, &r.BlobNeeded)
		if err != nil {
			return r, err
		}
		r.At = r.At.UTC()
		if r.Subject, err = digest(subject); err != nil {
			return r, err
		}
		if r.Manifest, err = digest(manifest); err != nil {
			return r, err
		}
		r.Evidence, err = digest(evidence)
		return r, err
	}, `SELECT e.index, p.registry, p.repository, p.subject, e.evidence, p.at, p.why, p.asked, was.manifest, `+needed+` AND d.subject = p.subject), `+needed+`)
		FROM (SELECT DISTINCT index FROM evidence_marks WHERE NOT removed AND index > $1 ORDER BY index LIMIT $2) AS first
		JOIN evidence_marks p ON p.index = first.index AND NOT p.removed
		JOIN entries e ON e.index = p.index
		LEFT JOIN deliveries was ON was.index = p.index AND was.registry = p.registry AND was.repository = p.repository
			AND was.subject = p.subject AND was.artifact = 'evidence'
		ORDER BY p.index, p.registry, p.repository, p.subject`, above, n)
	if err != nil {
		return nil, fmt.Errorf("look for evidence to remove: %w", err)
	}
	return found, nil
}

// Unrecorded are purges that the log does not tell of.
func (s *Store) Unrecorded(ctx context.Context, above int64, n int) ([]ledger.Absence, error) {
	found, err := collect(ctx, s.work, scanAbsence, `SELECT `+absenceColumns+`
		FROM (SELECT DISTINCT index FROM evidence_marks WHERE state = 'purged' AND statement IS NULL AND index > $1 ORDER BY index LIMIT $2) AS first
		JOIN evidence_marks k ON k.index = first.index AND k.state = 'purged' AND k.statement IS NULL`+absenceJoins+`
		ORDER BY k.index, k.registry, k.repository, k.subject`, above, n)
	if err != nil {
		return nil, fmt.Errorf("look for purges that are not recorded: %w", err)
	}
	return found, nil
}

// Recorded says which statement tells of purges.
func (s *Store) Recorded(ctx context.Context, entries []uint64, by statement.ID) error {
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `UPDATE evidence_marks SET statement = r.index FROM entries r
			WHERE r.entry_id = $2 AND evidence_marks.index = ANY($1::bigint[]) AND state = 'purged' AND statement IS NULL`,
			bounds(entries), by[:])
		return err
	})
	if err != nil {
		return fmt.Errorf("note which statement tells of purges: %w", err)
	}
	return nil
}
