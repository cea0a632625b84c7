package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"

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
	low, err := index(from)
	if err != nil {
		return nil, nil
	}
	found := ledger.Dossiers{}
	high := min(low, math.MaxInt64-ledger.MaxPage) + int64(limit)
	for _, part := range []struct {
		query string
		scan  func(func(...any) error) error
	}{
		{`SELECT "index", registry, repository, image FROM audit WHERE "index" >= ? AND "index" < ?`,
			func(scan func(...any) error) error {
				var d ledger.Dossier
				err := scan(&d.Index, &d.Registry, &d.Repository, &d.Image)
				if err == nil {
					kept := found.Of(d.Index)
					kept.Audited, kept.Registry, kept.Repository, kept.Image = true, d.Registry, d.Repository, d.Image
				}
				return err
			}},
		{`SELECT ec."index", coalesce(c.kind, ''), c.data FROM entry_collateral ec LEFT JOIN collateral c ON c.id = ec.collateral_id
			WHERE ec."index" >= ? AND ec."index" < ? ORDER BY ec."index", ec.position`,
			func(scan func(...any) error) error {
				var i uint64
				var c ledger.Collateral
				err := scan(&i, &c.Kind, &c.Data)
				if err == nil {
					found.Of(i).Collateral = append(found.Of(i).Collateral, c)
				}
				return err
			}},
		{`SELECT "index", registry, repository, subject, artifact, state, tries, next_at, last_error, manifest
			FROM deliveries WHERE "index" >= ? AND "index" < ? ORDER BY "index", id`,
			func(scan func(...any) error) error {
				var d ledger.Delivery
				var next int64
				err := scan(&d.Entry, &d.Registry, &d.Repository, &d.Subject, &d.Artifact, &d.State, &d.Tries, &next, &d.LastError, &d.Manifest)
				if d.NextAt = fromMillis(next); err == nil {
					found.Of(d.Entry).Deliveries = append(found.Of(d.Entry).Deliveries, d)
				}
				return err
			}},
		{`SELECT "index", registry, repository, subject, artifact FROM interventions WHERE action = 'place' AND "index" >= ? AND "index" < ?`,
			func(scan func(...any) error) error {
				var d ledger.Delivery
				err := scan(&d.Entry, &d.Registry, &d.Repository, &d.Subject, &d.Artifact)
				if err == nil {
					found.Of(d.Entry).Later = append(found.Of(d.Entry).Later, d)
				}
				return err
			}},
	} {
		if err := s.each(ctx, part.scan, part.query, low, high); err != nil {
			return nil, err
		}
	}
	return found.Sorted(), nil
}

// each scans every row of a query.
func (s *Store) each(ctx context.Context, scan func(func(...any) error) error, query string, args ...any) error {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows.Scan); err != nil {
			return classify(err)
		}
	}
	return classify(rows.Err())
}

// Flaws asks SQLite for its own checks last: they read the whole file.
func (s *Store) Flaws(ctx context.Context, thorough bool) ([]ledger.Flaw, error) {
	var flaws []ledger.Flaw
	for _, table := range []string{"entries", "entry_subjects", "entry_collateral", "audit", "deliveries", "evidence_marks", "interventions", "later_images"} {
		// One statement sees one state of the log, however it grows meanwhile.
		err := s.each(ctx, func(scan func(...any) error) error {
			var at, size int64
			err := scan(&at, &size)
			flaws = append(flaws, ledger.Flaw{
				Object: fmt.Sprintf("%s row of entry %d", table, at), What: fmt.Sprintf("lies beyond the newest head, of size %d", size),
			})
			return err
		}, `WITH newest AS (SELECT coalesce(max(size), 0) AS size FROM heads)
			SELECT "index", newest.size FROM newest JOIN `+table+` ON "index" >= newest.size OR "index" < 0 ORDER BY "index" LIMIT ?`, ledger.MaxFlaws)
		if err != nil {
			return flaws, fmt.Errorf("look for strays in %s: %w", table, err)
		}
	}
	dropped, err := s.droppedByNobody(ctx)
	if err != nil {
		return flaws, err
	}
	flaws = append(flaws, dropped...)
	err = s.each(ctx, func(scan func(...any) error) error {
		var level, n, size int64
		err := scan(&level, &n, &size)
		flaws = append(flaws, ledger.Flaw{
			Object: fmt.Sprintf("tile %d/%d", level, n), What: fmt.Sprintf("is stored, but cannot be full at size %d", size),
		})
		return err
	}, `WITH newest AS (SELECT coalesce(max(size), 0) AS size FROM heads)
		SELECT level, n, size FROM newest JOIN tiles ON level NOT BETWEEN 0 AND 6 OR n < 0 OR n >= size >> (8 * (level + 1))
		ORDER BY level, n LIMIT ?`, ledger.MaxFlaws)
	if err != nil {
		return flaws, fmt.Errorf("look for strays in tiles: %w", err)
	}
	for _, d := range migrations.Dictionaries {
		err := s.misnamed(ctx, `SELECT id, CAST(text AS BLOB), sha256 FROM `+d.Table, func(id int64, _ []byte) {
			flaws = append(flaws, ledger.Flaw{Object: fmt.Sprintf("%s row %d", d.Table, id), What: "the hash that its text is found by is not that of the text"})
		})
		if err != nil {
			return flaws, fmt.Errorf("check %s: %w", d.Table, err)
		}
	}
	err = s.misnamed(ctx, `SELECT id, data, sha256 FROM collateral`, func(id int64, _ []byte) {
		flaws = append(flaws, ledger.Flaw{Object: fmt.Sprintf("collateral row %d", id), What: "its content is not what its hash says"})
	})
	if err != nil {
		return flaws, fmt.Errorf("check collateral: %w", err)
	}
	if !thorough {
		return flaws, nil
	}
	err = s.each(ctx, func(scan func(...any) error) error {
		var said string
		err := scan(&said)
		if err == nil && said != "ok" {
			flaws = append(flaws, ledger.Flaw{Object: "file", What: said})
		}
		return err
	}, fmt.Sprintf(`PRAGMA integrity_check(%d)`, ledger.MaxFlaws))
	if err != nil && !errors.Is(err, ledger.ErrCorrupt) {
		return flaws, fmt.Errorf("check the file: %w", err)
	}
	if err != nil {
		return append(flaws, ledger.Flaw{Object: "file", What: err.Error()}), nil
	}
	err = s.each(ctx, func(scan func(...any) error) error {
		var table, parent string
		var row sql.NullInt64
		err := scan(&table, &row, &parent, new(int))
		if len(flaws) < ledger.MaxFlaws {
			flaws = append(flaws, ledger.Flaw{Object: fmt.Sprintf("%s row %d", table, row.Int64), What: "names a row of " + parent + " that is missing"})
		}
		return err
	}, `PRAGMA foreign_key_check`)
	if err != nil {
		return flaws, fmt.Errorf("check references: %w", err)
	}
	return flaws, nil
}

// misnamed calls found for every row whose content has another hash. The query
// selects id, content and SHA-256.
func (s *Store) misnamed(ctx context.Context, query string, found func(id int64, content []byte)) error {
	n := 0
	return s.each(ctx, func(scan func(...any) error) error {
		var id int64
		var content, sum []byte
		if err := scan(&id, &content, &sum); err != nil {
			return err
		}
		if own := sha256.Sum256(content); string(own[:]) != string(sum) && n < ledger.MaxFlaws {
			n++
			found(id, content)
		}
		return nil
	}, query)
}

// Reindex rewrites what follows from the statements; see ledger.Audit.
func (s *Store) Reindex(ctx context.Context, entries []ledger.Entry, tiles []ledger.Tile) error {
	if s.lock == nil {
		return errors.New("this process does not hold the log")
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		r := &reindexer{ctx, tx}
		for _, e := range entries {
			if err := r.entry(e); err != nil {
				return fmt.Errorf("reindex entry %d: %w", e.Index, err)
			}
		}
		for _, t := range tiles {
			err := r.exec(`INSERT INTO tiles (level, n, root, data) VALUES (?, ?, ?, ?)
				ON CONFLICT (level, n) DO UPDATE SET root = excluded.root, data = excluded.data`, t.Level, int64(t.N), t.Root[:], t.Data)
			if err != nil {
				return fmt.Errorf("rewrite tile %d/%d: %w", t.Level, t.N, err)
			}
		}
		return r.dictionaries()
	})
}

// reindexer is one such transaction.
type reindexer struct {
	ctx context.Context
	tx  *sql.Tx
}

func (r *reindexer) exec(query string, args ...any) error {
	_, err := r.tx.ExecContext(r.ctx, query, args...)
	return err
}

func (r *reindexer) entry(e ledger.Entry) error {
	ids := make([]int64, len(migrations.Dictionaries))
	for i, text := range []string{e.Issuer, e.MediaType, e.PredicateType} {
		var err error
		if ids[i], err = r.term(migrations.Dictionaries[i].Table, text); err != nil {
			return err
		}
	}
	artifacts, err := json.Marshal(append([]string{}, texts(e)...))
	if err != nil {
		return err
	}
	identity, err := json.Marshal(e.Identity)
	if err != nil {
		return err
	}
	at := int64(e.Index)
	for _, change := range []struct {
		query string
		args  []any
	}{
		{`UPDATE entries SET issuer_id = ?, media_type_id = ?, predicate_type_id = ?, evidence = ?, private = ?, registered_at = ?
			WHERE "index" = ?`, []any{ids[0], ids[1], ids[2], string(e.Evidence), e.Private, e.RegisteredAt.Unix(), at}},
		{`INSERT INTO entry_subjects (digest, "index") SELECT value, ? FROM json_each(?) WHERE true ON CONFLICT DO NOTHING`, []any{at, string(artifacts)}},
		{`DELETE FROM entry_subjects WHERE "index" = ? AND digest NOT IN (SELECT value FROM json_each(?))`, []any{at, string(artifacts)}},
		{`UPDATE statements SET sub = ? WHERE "index" = ?`, []any{e.Subject, at}},
		{`UPDATE audit SET policy_index = (SELECT "index" FROM entries WHERE entry_id = ?), rule = ?, identity = ? WHERE "index" = ?`,
			[]any{e.Policy[:], e.Rule, string(identity), at}},
	} {
		if err := r.exec(change.query, change.args...); err != nil {
			return err
		}
	}
	return nil
}

// term returns the row of text, whose hash it is found by or, where one of the
// two is damaged, whose text it is.
func (r *reindexer) term(table, text string) (id int64, err error) {
	sum := sha256.Sum256([]byte(text))
	err = r.tx.QueryRowContext(r.ctx, `SELECT id FROM `+table+` WHERE sha256 = ?1 OR text = ?2 ORDER BY sha256 = ?1 DESC LIMIT 1`, sum[:], text).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = r.tx.QueryRowContext(r.ctx, `INSERT INTO `+table+` (text, sha256) VALUES (?, ?) RETURNING id`, text, sum[:]).Scan(&id)
		return id, err
	}
	if err != nil {
		return 0, err
	}
	return id, r.exec(`UPDATE `+table+` SET text = ?, sha256 = ? WHERE id = ?`, text, sum[:], id)
}

// dictionaries gives every text its own hash. Of two rows that then say the
// same, entries keep the one that was found by it.
func (r *reindexer) dictionaries() error {
	for _, d := range migrations.Dictionaries {
		rows, err := r.tx.QueryContext(r.ctx, `SELECT id, CAST(text AS BLOB), sha256 FROM `+d.Table)
		if err != nil {
			return err
		}
		wrong := map[int64][32]byte{}
		for rows.Next() {
			var id int64
			var text, sum []byte
			if err := rows.Scan(&id, &text, &sum); err != nil {
				return errors.Join(err, rows.Close())
			}
			if own := sha256.Sum256(text); string(own[:]) != string(sum) {
				wrong[id] = own
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for id, sum := range wrong {
			var other int64
			err := r.tx.QueryRowContext(r.ctx, `SELECT id FROM `+d.Table+` WHERE sha256 = ?`, sum[:]).Scan(&other)
			switch {
			case errors.Is(err, sql.ErrNoRows):
				err = r.exec(`UPDATE `+d.Table+` SET sha256 = ? WHERE id = ?`, sum[:], id)
			case err == nil:
				err = errors.Join(r.exec(`UPDATE entries SET `+d.Column+` = ? WHERE `+d.Column+` = ?`, other, id),
					r.exec(`DELETE FROM `+d.Table+` WHERE id = ?`, id))
			}
			if err != nil {
				return fmt.Errorf("set right %s row %d: %w", d.Table, id, err)
			}
		}
	}
	return nil
}

func texts(e ledger.Entry) []string {
	all := make([]string, len(e.Artifacts))
	for i, a := range e.Artifacts {
		all[i] = string(a)
	}
	return all
}

// Tables lists tables and indexes with their pages.
func (s *Store) Tables(ctx context.Context) ([]ledger.Table, error) {
	var tables []ledger.Table
	err := s.each(ctx, func(scan func(...any) error) error {
		t := ledger.Table{Rows: -1}
		var of string
		err := scan(&t.Name, &of, &t.Bytes)
		if of == "table" && err == nil {
			err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM "`+t.Name+`"`).Scan(&t.Rows)
		}
		tables = append(tables, t)
		return err
	}, `SELECT m.name, m.type, sum(d.pgsize) FROM sqlite_schema m JOIN dbstat d ON d.name = m.name GROUP BY m.name ORDER BY 3 DESC, 1`)
	if err != nil {
		return nil, fmt.Errorf("measure the tables: %w", err)
	}
	return tables, nil
}
