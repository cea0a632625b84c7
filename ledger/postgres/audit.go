package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/migrations"
)

var _ ledger.Audit = (*Store)(nil)

// Dossiers reads what is kept beside entries, table by table: a join would hide
// the rows of an entry that is missing.
func (s *Store) Dossiers(ctx context.Context, from uint64, limit int) ([]ledger.Dossier, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	var found ledger.Dossiers
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		found = ledger.Dossiers{}
		low, high := bound(from), bound(from+uint64(limit))
		var q pgx.Batch // committed rows never change, but for a delivery's state
		q.Queue(`SELECT e.index, a.registry, a.repository, a.image FROM entries e `+auditOf+`
			WHERE e.index >= $1 AND e.index < $2 AND a.index IS NOT NULL`, low, high).
			Query(func(rows pgx.Rows) error {
				var d ledger.Dossier
				var image []byte
				_, err := pgx.ForEachRow(rows, []any{&d.Index, &d.Registry, &d.Repository, &image}, func() (err error) {
					kept := found.Of(d.Index)
					kept.Audited, kept.Registry, kept.Repository = true, d.Registry, d.Repository
					kept.Image, err = digest(image)
					return err
				})
				return err
			})
		q.Queue(`SELECT ec.index, ec.kind, c.data FROM entry_collateral ec LEFT JOIN collateral c USING (sha256)
			WHERE ec.index >= $1 AND ec.index < $2 ORDER BY ec.index, ec.position`, low, high).
			Query(func(rows pgx.Rows) error {
				var i uint64
				var c ledger.Collateral
				_, err := pgx.ForEachRow(rows, []any{&i, &c.Kind, &c.Data}, func() error {
					found.Of(i).Collateral = append(found.Of(i).Collateral, ledger.Collateral{Kind: c.Kind, Data: slices.Clone(c.Data)})
					return nil
				})
				return err
			})
		q.Queue(`SELECT index, registry, repository, subject, artifact, state, tries, next_at, last_error, manifest
			FROM deliveries WHERE index >= $1 AND index < $2`, low, high).
			Query(func(rows pgx.Rows) error {
				var d ledger.Delivery
				var subject, manifest []byte
				_, err := pgx.ForEachRow(rows, []any{&d.Entry, &d.Registry, &d.Repository, &subject, &d.Artifact,
					&d.State, &d.Tries, &d.NextAt, &d.LastError, &manifest}, func() (err error) {
					d.NextAt = d.NextAt.UTC()
					if d.Subject, err = digest(subject); err != nil {
						return err
					}
					if d.Manifest, err = digest(manifest); err != nil {
						return err
					}
					found.Of(d.Entry).Deliveries = append(found.Of(d.Entry).Deliveries, d)
					return nil
				})
				return err
			})
		q.Queue(`SELECT index, registry, repository, subject, artifact FROM interventions
			WHERE action = 'place' AND index >= $1 AND index < $2`, low, high).
			Query(func(rows pgx.Rows) error {
				var d ledger.Delivery
				var subject []byte
				_, err := pgx.ForEachRow(rows, []any{&d.Entry, &d.Registry, &d.Repository, &subject, &d.Artifact}, func() (err error) {
					if d.Subject, err = digest(subject); err == nil {
						found.Of(d.Entry).Later = append(found.Of(d.Entry).Later, d)
					}
					return err
				})
				return err
			})
		return c.SendBatch(ctx, &q).Close()
	})
	if err != nil {
		return nil, fmt.Errorf("read what is kept beside entries from %d: %w", from, err)
	}
	return found.Sorted(), nil
}

// flawBatch is how many rows are hashed at a time: each query has its seconds.
const flawBatch = 4096

// Flaws has nothing more to ask the server when it is to be thorough: pages and
// indexes are checked by its own pg_amcheck.
func (s *Store) Flaws(ctx context.Context, _ bool) ([]ledger.Flaw, error) {
	var flaws []ledger.Flaw
	for _, table := range []string{"entries", "entry_subjects", "entry_collateral", "audit", "deliveries", "evidence_marks", "interventions", "later_images"} {
		// One statement sees one state of the log, however it grows meanwhile.
		strays, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (ledger.Flaw, error) {
			var at, size int64
			err := row.Scan(&at, &size)
			return ledger.Flaw{
				Object: fmt.Sprintf("%s row of entry %d", table, at), What: fmt.Sprintf("lies beyond the newest head, of size %d", size),
			}, err
		}, `WITH newest AS MATERIALIZED (SELECT coalesce(max(size), 0) AS size FROM heads)
			(SELECT index, (SELECT size FROM newest) FROM `+table+` WHERE index >= (SELECT size FROM newest) ORDER BY index LIMIT $1)
			UNION ALL (SELECT index, (SELECT size FROM newest) FROM `+table+` WHERE index < 0 ORDER BY index LIMIT $1)`, ledger.MaxFlaws)
		if err != nil {
			return flaws, fmt.Errorf("look for strays in %s: %w", table, err)
		}
		flaws = append(flaws, strays...)
	}
	dropped, err := s.droppedByNobody(ctx)
	if err != nil {
		return flaws, err
	}
	flaws = append(flaws, dropped...)
	strays, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (ledger.Flaw, error) {
		var level, n, size int64
		err := row.Scan(&level, &n, &size)
		return ledger.Flaw{Object: fmt.Sprintf("tile %d/%d", level, n), What: fmt.Sprintf("is stored, but cannot be full at size %d", size)}, err
	}, `WITH newest AS MATERIALIZED (SELECT coalesce(max(size), 0) AS size FROM heads),
		levels AS (SELECT level, size, size >> (8 * (level + 1)) AS ending FROM newest, generate_series(0, 6) AS level)
		(SELECT t.level, t.n, l.size FROM levels l JOIN tiles t ON t.level = l.level AND t.n >= l.ending ORDER BY 1, 2 LIMIT $1)
		UNION ALL (SELECT level, n, (SELECT size FROM newest) FROM tiles WHERE level > 6 LIMIT $1)`, ledger.MaxFlaws)
	if err != nil {
		return flaws, fmt.Errorf("look for strays in tiles: %w", err)
	}
	flaws = append(flaws, strays...)
	for _, d := range migrations.Dictionaries {
		wrong, err := s.misnamed(ctx, d.Table)
		if err != nil {
			return flaws, fmt.Errorf("check %s: %w", d.Table, err)
		}
		for _, id := range wrong {
			flaws = append(flaws, ledger.Flaw{Object: fmt.Sprintf("%s row %d", d.Table, id), What: "the hash that its text is found by is not that of the text"})
		}
	}
	more, err := s.misnamedCollateral(ctx)
	return append(flaws, more...), err
}

// misnamed returns the rows of a dictionary whose text has another hash.
func (s *Store) misnamed(ctx context.Context, table string) (wrong []int32, err error) {
	var last, to int64
	for last >= 0 && len(wrong) < ledger.MaxFlaws {
		err := s.reads.read(ctx, func(c *pgx.Conn) error {
			var found []int32
			err := c.QueryRow(ctx, `SELECT coalesce(max(id), -1), coalesce(array_agg(id) FILTER (WHERE sha256 <> sha256(convert_to(text, 'UTF8'))), '{}')
				FROM (SELECT * FROM `+table+` WHERE id > $1 ORDER BY id LIMIT $2) AS page`, last, flawBatch).Scan(&to, &found)
			if err == nil {
				wrong = append(wrong, found...)
			}
			return err
		})
		if err != nil {
			return wrong, err
		}
		last = to
	}
	return wrong, nil
}

// misnamedCollateral does the same for collateral, whose hash is its key.
func (s *Store) misnamedCollateral(ctx context.Context) (flaws []ledger.Flaw, err error) {
	last := []byte{}
	for last != nil && len(flaws) < ledger.MaxFlaws {
		var to []byte
		err := s.reads.read(ctx, func(c *pgx.Conn) error {
			var found [][]byte
			err := c.QueryRow(ctx, `SELECT (SELECT sha256 FROM (SELECT sha256 FROM collateral WHERE sha256 > $1 ORDER BY sha256 LIMIT $2) p ORDER BY sha256 DESC LIMIT 1),
				ARRAY(SELECT sha256 FROM (SELECT * FROM collateral WHERE sha256 > $1 ORDER BY sha256 LIMIT $2) page WHERE sha256 <> sha256(data))`,
				last, flawBatch/16).Scan(&to, &found)
			for _, sum := range found {
				flaws = append(flaws, ledger.Flaw{Object: fmt.Sprintf("collateral row %x", sum), What: "its content is not what its hash says"})
			}
			return err
		})
		if err != nil {
			return flaws, fmt.Errorf("check collateral: %w", err)
		}
		last = to
	}
	return flaws, nil
}

// Reindex rewrites what follows from the statements; see ledger.Audit.
func (s *Store) Reindex(ctx context.Context, entries []ledger.Entry, tiles []ledger.Tile) error {
	err := s.work.run(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			// It holds up nobody's commits, so it may take what time a busy machine needs.
			if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = '1min'`); err != nil {
				return err
			}
			for _, e := range entries {
				if err := reindex(ctx, tx, e); err != nil {
					return fmt.Errorf("entry %d: %w", e.Index, err)
				}
			}
			for _, t := range tiles {
				_, err := tx.Exec(ctx, `INSERT INTO tiles (level, n, root, data) VALUES ($1, $2, $3, $4)
					ON CONFLICT (level, n) DO UPDATE SET root = excluded.root, data = excluded.data`, int16(t.Level), int64(t.N), t.Root[:], t.Data)
				if err != nil {
					return fmt.Errorf("tile %d/%d: %w", t.Level, t.N, err)
				}
			}
			return rename(ctx, tx)
		})
	})
	if err != nil {
		return fmt.Errorf("reindex: %w", err)
	}
	return nil
}

// reindex makes the index rows of one entry.
func reindex(ctx context.Context, tx pgx.Tx, e ledger.Entry) error {
	ids := make([]*int32, len(migrations.Dictionaries))
	for i, text := range []string{e.Issuer, e.MediaType, e.PredicateType} {
		if text == "" {
			continue // NULL
		}
		var err error
		if ids[i], err = term(ctx, tx, migrations.Dictionaries[i].Table, text); err != nil {
			return err
		}
	}
	at, artifacts := int64(e.Index), digestBytes(e.Artifacts)
	for _, change := range []struct {
		sql  string
		args []any
	}{
		{`UPDATE entries SET issuer_id = $2, media_type_id = $3, predicate_type_id = $4, evidence = $5, private = $6, registered_at = $7
			WHERE index = $1`, []any{at, ids[0], ids[1], ids[2], e.Evidence.Bytes(), e.Private, e.RegisteredAt}},
		{`DELETE FROM entry_subjects WHERE index = $1`, []any{at}},
		{`INSERT INTO entry_subjects (index, digest) SELECT $1, * FROM unnest($2::bytea[])`, []any{at, artifacts}},
		// The audit row that speaks for others may not be about to change: this one
		// gets its own, with what only the other knows.
		{`INSERT INTO audit (index, policy_index, rule, identity_kind, identity_issuer, identity_thumbprint, identity_name, caller, registry, repository)
			SELECT e.index, (SELECT index FROM entries WHERE entry_id = $2), $3, $4, $5, $6, $7, a.caller, a.registry, a.repository
			FROM entries e JOIN audit a ON a.index = coalesce(e.audited, e.index) WHERE e.index = $1
			ON CONFLICT (index) DO UPDATE SET policy_index = excluded.policy_index, rule = excluded.rule,
				identity_kind = excluded.identity_kind, identity_issuer = excluded.identity_issuer, identity_thumbprint = excluded.identity_thumbprint, identity_name = excluded.identity_name`,
			[]any{at, e.Policy[:], e.Rule, e.Identity.Kind, e.Identity.Issuer, e.Identity.Thumbprint, e.Identity.Name}},
		{`UPDATE entries SET audited = NULL WHERE index = $1 AND EXISTS (SELECT FROM audit WHERE index = $1)`, []any{at}},
	} {
		if _, err := tx.Exec(ctx, change.sql, change.args...); err != nil {
			return err
		}
	}
	return relocate(ctx, tx, e)
}

// term returns the row of text, whose hash it is found by or, where one of the
// two is damaged, whose text it is.
func term(ctx context.Context, tx pgx.Tx, table, text string) (*int32, error) {
	var id int32
	sum := textHashes([]string{text})[0]
	err := tx.QueryRow(ctx, `SELECT id FROM `+table+` WHERE sha256 = $1 OR text = $2 ORDER BY sha256 = $1 DESC LIMIT 1`, sum, text).Scan(&id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		err = tx.QueryRow(ctx, `INSERT INTO `+table+` (sha256, text) VALUES ($1, $2) RETURNING id`, sum, text).Scan(&id)
	case err == nil:
		_, err = tx.Exec(ctx, `UPDATE `+table+` SET text = $2, sha256 = $3 WHERE id = $1`, id, text, sum)
	}
	return &id, err
}

// rename gives every dictionary text its own hash. Of two rows that then say
// the same, entries keep the one that was found by it.
func rename(ctx context.Context, tx pgx.Tx) error {
	const own = `sha256(convert_to(w.text, 'UTF8'))`
	for _, d := range migrations.Dictionaries {
		for _, change := range []string{
			`UPDATE entries e SET ` + d.Column + ` = r.id FROM ` + d.Table + ` w JOIN ` + d.Table + ` r ON r.sha256 = ` + own + `
				WHERE w.sha256 <> ` + own + ` AND e.` + d.Column + ` = w.id`,
			`DELETE FROM ` + d.Table + ` w USING ` + d.Table + ` r WHERE r.sha256 = ` + own + ` AND w.sha256 <> ` + own,
			`UPDATE ` + d.Table + ` w SET sha256 = ` + own + ` WHERE sha256 <> ` + own,
		} {
			if _, err := tx.Exec(ctx, change); err != nil {
				return fmt.Errorf("set right %s: %w", d.Table, err)
			}
		}
	}
	return nil
}

// Tables lists the log's tables with what belongs to them; rows are the
// server's estimate.
func (s *Store) Tables(ctx context.Context) ([]ledger.Table, error) {
	tables, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (ledger.Table, error) {
		var t ledger.Table
		err := row.Scan(&t.Name, &t.Rows, &t.Bytes)
		return t, err
	}, `SELECT relname, reltuples::bigint, pg_total_relation_size(oid) FROM pg_class
		WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY 3 DESC, 1`)
	if err != nil {
		return nil, fmt.Errorf("measure the tables: %w", err)
	}
	return tables, nil
}
