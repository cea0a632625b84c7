package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var _ ledger.Claims = (*Store)(nil)

// evidenceState is the state of the evidence of an entry e. Of its deliveries
// the first word says it: done before queued. Of marks too: missing before purged.
const evidenceState = `CASE WHEN e.evidence IS NULL THEN 'none' ELSE
	CASE (SELECT min(d.state) FROM deliveries d WHERE d.index = e.index AND d.artifact = 'evidence'
		AND d.state IN ('done', 'queued') AND ` + unmarked + `)
	WHEN 'done' THEN 'placed' WHEN 'queued' THEN 'staged'
	ELSE coalesce((SELECT min(k.state) FROM evidence_marks k WHERE k.index = e.index),
		CASE WHEN EXISTS (SELECT FROM staged s WHERE s.digest = e.evidence) THEN 'staged' ELSE 'none' END) END END`

// Claims asks for the page and for what indexes relate in one round trip. Seldom
// is there anything, and then the page is asked for again, of all of them.
func (s *Store) Claims(ctx context.Context, q ledger.Query, instances bool) ([]ledger.Claim, error) {
	if q.Limit < 1 || q.Limit > ledger.MaxPage {
		return nil, fmt.Errorf("find claims: limit %d is not within 1..%d", q.Limit, ledger.MaxPage)
	}
	var related ledger.Relations
	claims, err := s.claims(ctx, q, func(b *pgx.Batch) {
		if len(q.Artifacts) > 0 {
			queueRelations(b, q.Artifacts, instances, &related)
		}
	})
	if err == nil && len(related.Indexes)+len(related.Instances) > 0 {
		claims, err = s.claims(ctx, related.Widen(q), func(*pgx.Batch) {})
		related.Explain(q, claims)
	}
	if err != nil {
		return nil, fmt.Errorf("find claims: %w", err)
	}
	return claims, nil
}

func (s *Store) claims(ctx context.Context, q ledger.Query, also func(*pgx.Batch)) (found []ledger.Claim, err error) {
	page, args := pageOf(q)
	err = s.reads.read(ctx, func(c *pgx.Conn) error {
		var b pgx.Batch
		b.Queue(`SELECT `+entryColumns+`, `+evidenceState+` FROM (`+page+`) AS e `+entryJoins+` ORDER BY e.index DESC`, args...).
			Query(func(rows pgx.Rows) (err error) {
				found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c ledger.Claim, err error) {
					c.Entry, err = scanEntry(row, &c.EvidenceState)
					return c, err
				})
				return err
			})
		also(&b)
		return c.SendBatch(ctx, &b).Close()
	})
	return found, err
}

// claimed is the condition that something is registered about a digest.
const claimed = `EXISTS (SELECT FROM entry_subjects s WHERE substr(s.digest, 1, 7) = substr(r.digest, 1, 7) AND s.digest = r.digest)`

// queueRelations asks for no more than it has to: every query by artifact pays for
// it, and hardly any finds something.
func queueRelations(b *pgx.Batch, artifacts []statement.Digest, instances bool, found *ledger.Relations) {
	above := `SELECT true, r.digest FROM (SELECT image_index AS digest FROM unnest($1::bytea[]) AS asked (digest) JOIN index_manifests ON manifest = asked.digest) AS r WHERE ` + claimed
	below := `SELECT false, r.digest FROM (SELECT manifest AS digest FROM unnest($1::bytea[]) AS asked (digest) JOIN index_manifests ON image_index = asked.digest) AS r WHERE ` + claimed
	if instances {
		above = `(` + above + `) UNION ALL (` + below + `)`
	}
	b.Queue(above+` LIMIT $2`, digestBytes(artifacts), ledger.MaxRelated).
		Query(func(rows pgx.Rows) error {
			*found = ledger.Relations{}
			var above bool
			var b []byte
			_, err := pgx.ForEachRow(rows, []any{&above, &b}, func() error {
				d, err := digest(b)
				if above {
					found.Indexes = append(found.Indexes, d)
				} else {
					found.Instances = append(found.Instances, d)
				}
				return err
			})
			return err
		})
}

// KeepIndex remembers what an image index lists.
func (s *Store) KeepIndex(ctx context.Context, index statement.Digest, manifests []statement.Digest) error {
	if len(manifests) > ledger.MaxListed {
		return fmt.Errorf("keep image index %s: %w: it lists %d manifests, %d are kept", index, ledger.ErrTooLarge, len(manifests), ledger.MaxListed)
	}
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, `INSERT INTO index_manifests (manifest, image_index)
			SELECT DISTINCT asked.digest, r.digest FROM unnest($1::bytea[]) AS asked (digest), (SELECT $2::bytea AS digest) AS r
			WHERE (SELECT count(*) FROM (SELECT FROM index_manifests WHERE manifest = asked.digest LIMIT $3) AS listing) < $3 OR `+claimed+`
			ON CONFLICT DO NOTHING`, digestBytes(manifests), notNil(index.Bytes()), ledger.MaxIndexes)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep image index %s: %w", index, err)
	}
	return nil
}
