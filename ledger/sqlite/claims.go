package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

var _ ledger.Claims = (*Store)(nil)

// evidenceState is the state of the evidence of an entry e. Of its deliveries
// the first word says it: done before queued. Of marks too: missing before purged.
const evidenceState = `CASE WHEN e.evidence = '' THEN 'none' ELSE
	CASE (SELECT min(d.state) FROM deliveries d WHERE d."index" = e."index" AND d.artifact = 'evidence'
		AND d.state IN ('done', 'queued') AND ` + unmarked + `)
	WHEN 'done' THEN 'placed' WHEN 'queued' THEN 'staged'
	ELSE coalesce((SELECT min(k.state) FROM evidence_marks k WHERE k."index" = e."index"),
		CASE WHEN EXISTS (SELECT 1 FROM staged s WHERE s.digest = e.evidence) THEN 'staged' ELSE 'none' END) END END`

// Claims looks for what indexes relate, and then for the page of all of them.
func (s *Store) Claims(ctx context.Context, q ledger.Query, instances bool) ([]ledger.Claim, error) {
	if q.Limit < 1 || q.Limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", q.Limit, ledger.MaxPage)
	}
	related, err := s.relations(ctx, q.Artifacts, instances)
	if err != nil {
		return nil, err
	}
	f, err := s.filter(ctx, related.Widen(q))
	if err != nil || f == nil {
		return nil, err
	}
	rows, err := s.read.QueryContext(ctx, `SELECT `+entryColumns+`, `+evidenceState+` FROM (`+f.page()+`) page
		JOIN entries e ON e."index" = page.at`+entryJoins+` ORDER BY e."index" DESC`, append(f.args, q.Limit)...)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var found []ledger.Claim
	for rows.Next() {
		var c ledger.Claim
		if c.Entry, err = scanEntry(rows.Scan, &c.EvidenceState); err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	related.Explain(q, found)
	return found, classify(rows.Err())
}

// claimed is the condition that something is registered about r.digest.
const claimed = `EXISTS (SELECT 1 FROM entry_subjects es WHERE es.digest = r.digest)`

func (s *Store) relations(ctx context.Context, artifacts []statement.Digest, instances bool) (ledger.Relations, error) {
	var found ledger.Relations
	if len(artifacts) == 0 {
		return found, nil
	}
	rows, err := s.read.QueryContext(ctx, `SELECT r.above, r.digest FROM (
			SELECT 1 AS above, image_index AS digest FROM index_manifests WHERE manifest IN (SELECT value FROM json_each(?1))
			UNION ALL SELECT 0, manifest FROM index_manifests WHERE ?2 AND image_index IN (SELECT value FROM json_each(?1))) r
		WHERE `+claimed+` LIMIT ?3`, list(artifacts), instances, ledger.MaxRelated)
	if err != nil {
		return found, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var above bool
		var d statement.Digest
		if err := rows.Scan(&above, &d); err != nil {
			return found, classify(err)
		}
		if above {
			found.Indexes = append(found.Indexes, d)
		} else {
			found.Instances = append(found.Instances, d)
		}
	}
	return found, classify(rows.Err())
}

// KeepIndex remembers what an image index lists.
func (s *Store) KeepIndex(ctx context.Context, index statement.Digest, manifests []statement.Digest) error {
	if len(manifests) > ledger.MaxListed {
		return fmt.Errorf("keep image index %s: %w: it lists %d manifests, %d are kept", index, ledger.ErrTooLarge, len(manifests), ledger.MaxListed)
	}
	if manifests == nil {
		return nil
	}
	err := s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO index_manifests (manifest, image_index)
			SELECT asked.value, r.digest FROM json_each(?1) asked, (SELECT ?2 AS digest) r
			WHERE (SELECT count(*) FROM (SELECT 1 FROM index_manifests WHERE manifest = asked.value LIMIT ?3)) < ?3 OR `+claimed+`
			ON CONFLICT DO NOTHING`, list(manifests), string(index), ledger.MaxIndexes)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep image index %s: %w", index, err)
	}
	return nil
}
