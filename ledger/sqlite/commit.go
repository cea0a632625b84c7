package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/scittd/scittd/ledger"
)

// inserts are the statements of a commit, prepared once on the writing
// connection.
type inserts struct {
	head, entry, subject, statement, collateral, entryCollateral,
	audit, tile, delivery, claim, findCollateral *sql.Stmt
	dictionaries [3]dictionary
}

// dictionary interns long text.
type dictionary struct{ find, add *sql.Stmt }

// The order of inserts.dictionaries.
const (
	issuers = iota
	mediaTypes
	predicateTypes
)

func (in *inserts) prepare(ctx context.Context, db *sql.DB) error {
	for _, p := range []struct {
		stmt **sql.Stmt
		sql  string
	}{
		{&in.head, `INSERT INTO heads (size, prev_size, root, iat, policy_index, protected, signature)
			VALUES (?, ?, ?, ?, ?, ?, ?)`},
		{&in.entry, `INSERT INTO entries ("index", entry_id, issuer_id, media_type_id, predicate_type_id,
			evidence, private, registered_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`},
		{&in.subject, `INSERT INTO entry_subjects (digest, "index") VALUES (?, ?)`},
		{&in.statement, `INSERT INTO statements ("index", sub, canonical) VALUES (?, ?, ?)`},
		{&in.findCollateral, `SELECT id FROM collateral WHERE kind = ? AND sha256 = ?`},
		{&in.collateral, `INSERT INTO collateral (kind, sha256, data) VALUES (?, ?, ?) RETURNING id`},
		{&in.entryCollateral, `INSERT INTO entry_collateral ("index", position, collateral_id) VALUES (?, ?, ?)`},
		{&in.audit, `INSERT INTO audit ("index", policy_index, rule, identity, caller, registry, repository, image, at)
			VALUES (?, (SELECT "index" FROM entries WHERE entry_id = ?), ?, ?, ?, ?, ?, ?, ?)`},
		{&in.tile, `INSERT INTO tiles (level, n, root, data) VALUES (?, ?, ?, ?)`},
		{&in.delivery, `INSERT INTO deliveries ("index", registry, repository, subject, artifact,
			state, tries, next_at, last_error, manifest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
		{&in.claim, `UPDATE staged SET claimed = 1 WHERE digest = ?`},
		{&in.dictionaries[issuers].find, `SELECT id FROM issuers WHERE sha256 = ?`},
		{&in.dictionaries[issuers].add, `INSERT INTO issuers (text, sha256) VALUES (?, ?) RETURNING id`},
		{&in.dictionaries[mediaTypes].find, `SELECT id FROM media_types WHERE sha256 = ?`},
		{&in.dictionaries[mediaTypes].add, `INSERT INTO media_types (text, sha256) VALUES (?, ?) RETURNING id`},
		{&in.dictionaries[predicateTypes].find, `SELECT id FROM predicate_types WHERE sha256 = ?`},
		{&in.dictionaries[predicateTypes].add, `INSERT INTO predicate_types (text, sha256) VALUES (?, ?) RETURNING id`},
	} {
		var err error
		if *p.stmt, err = db.PrepareContext(ctx, p.sql); err != nil {
			return fmt.Errorf("prepare the inserts: %w", classify(err))
		}
	}
	return nil
}

func (in *inserts) close() error {
	var errs []error
	all := []*sql.Stmt{
		in.head, in.entry, in.subject, in.statement, in.collateral, in.entryCollateral,
		in.audit, in.tile, in.delivery, in.claim, in.findCollateral,
	}
	for _, d := range in.dictionaries {
		all = append(all, d.find, d.add)
	}
	for _, s := range all {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// Commit writes b in one transaction; see ledger.Log.
func (s *Store) Commit(ctx context.Context, b *ledger.Batch) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.commit(ctx, b)
}

func (s *Store) commit(ctx context.Context, b *ledger.Batch) error {
	if err := checkBatch(b); err != nil {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		w := &writer{ctx: ctx, tx: tx, in: &s.inserts, terms: map[term]int64{}}
		if err := w.swap(b.Head); err != nil {
			return err
		}
		for i := range b.Entries {
			if err := w.entry(&b.Entries[i]); err != nil {
				return fmt.Errorf("entry %d: %w", b.Entries[i].Index, err)
			}
		}
		for _, t := range b.Tiles {
			if _, err := w.exec(w.in.tile, t.Level, int64(t.N), t.Root[:], t.Data); err != nil {
				return fmt.Errorf("tile %d/%d: %w", t.Level, t.N, err)
			}
		}
		return nil
	})
}

// checkBatch refuses what no constraint can see: gaps.
func checkBatch(b *ledger.Batch) error {
	if _, err := index(b.Head.Size); err != nil {
		return err
	}
	if b.Head.Size != b.Head.PrevSize+uint64(len(b.Entries)) {
		return fmt.Errorf("a batch of %d entries does not lead from size %d to %d", len(b.Entries), b.Head.PrevSize, b.Head.Size)
	}
	for i, e := range b.Entries {
		if e.Index != b.Head.PrevSize+uint64(i) {
			return fmt.Errorf("entry %d is in the place of %d", e.Index, b.Head.PrevSize+uint64(i))
		}
	}
	return nil
}

// writer is one commit in progress.
type writer struct {
	ctx   context.Context
	tx    *sql.Tx
	in    *inserts
	terms map[term]int64 // interned in this transaction
}

type term struct {
	dictionary int
	text       string
}

func (w *writer) exec(stmt *sql.Stmt, args ...any) (sql.Result, error) {
	return w.tx.StmtContext(w.ctx, stmt).ExecContext(w.ctx, args...)
}

// id runs find and, when there is no such row, add.
func (w *writer) id(find *sql.Stmt, findArgs []any, add *sql.Stmt, addArgs ...any) (id int64, err error) {
	err = w.tx.StmtContext(w.ctx, find).QueryRowContext(w.ctx, findArgs...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = w.tx.StmtContext(w.ctx, add).QueryRowContext(w.ctx, addArgs...).Scan(&id)
	}
	return id, err
}

// swap is the compare-and-swap: the newest head must be the one that h follows.
// The transaction holds the write lock already, so looking is enough to tell a
// lost swap; the UNIQUE of prev_size decides all the same.
func (w *writer) swap(h ledger.Head) error {
	var size, iat int64
	err := w.tx.QueryRowContext(w.ctx, `SELECT size, iat FROM heads ORDER BY size DESC LIMIT 1`).Scan(&size, &iat)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if uint64(size) != h.PrevSize {
		return fmt.Errorf("%w: from size %d to %d", ledger.ErrConflict, h.PrevSize, size)
	}
	if h.Time.Unix() < iat {
		return fmt.Errorf("head time %d is before its predecessor's %d", h.Time.Unix(), iat)
	}
	_, err = w.exec(w.in.head, int64(h.Size), int64(h.PrevSize), h.Root[:], h.Time.Unix(), int64(h.Policy),
		notNil(h.Protected), notNil(h.Signature))
	if taken(err) {
		return fmt.Errorf("%w: %w", ledger.ErrConflict, err)
	}
	return err
}

func (w *writer) entry(e *ledger.NewEntry) error {
	i := int64(e.Index)
	issuer, err := w.intern(issuers, e.Issuer)
	if err != nil {
		return err
	}
	mediaType, err := w.intern(mediaTypes, e.MediaType)
	if err != nil {
		return err
	}
	predicateType, err := w.intern(predicateTypes, e.PredicateType)
	if err != nil {
		return err
	}
	if _, err := w.exec(w.in.entry, i, e.ID[:], issuer, mediaType, predicateType,
		string(e.Evidence), e.Private, e.RegisteredAt.Unix()); err != nil {
		return err
	}
	for _, digest := range e.Artifacts {
		if _, err := w.exec(w.in.subject, string(digest), i); err != nil {
			return fmt.Errorf("artifact %s: %w", digest, err)
		}
	}
	if _, err := w.exec(w.in.statement, i, e.Subject, notNil(e.Canonical)); err != nil {
		return err
	}
	for at, c := range e.Collateral {
		sum := sha256.Sum256(c.Data)
		id, err := w.id(w.in.findCollateral, []any{c.Kind, sum[:]}, w.in.collateral, c.Kind, sum[:], notNil(c.Data))
		if err != nil {
			return fmt.Errorf("collateral %s: %w", c.Kind, err)
		}
		if _, err := w.exec(w.in.entryCollateral, i, at, id); err != nil {
			return err
		}
	}
	identity, err := json.Marshal(e.Identity)
	if err != nil {
		return err
	}
	if _, err := w.exec(w.in.audit, i, e.Policy[:], e.Rule, string(identity),
		e.Caller, e.Registry, e.Repository, string(e.Image), e.RegisteredAt.Unix()); err != nil {
		return fmt.Errorf("audit row under policy %s: %w", e.Policy, err)
	}
	return w.deliveries(e)
}

func (w *writer) deliveries(e *ledger.NewEntry) error {
	claim := false
	for _, d := range e.Deliveries {
		if _, err := w.exec(w.in.delivery, int64(e.Index), d.Registry, d.Repository, string(d.Subject), d.Artifact,
			d.State, d.Tries, millis(d.NextAt), d.LastError, string(d.Manifest)); err != nil {
			return fmt.Errorf("delivery to %s/%s: %w", d.Registry, d.Repository, err)
		}
		claim = claim || d.Artifact == ledger.EvidenceArtifact
	}
	if !claim {
		return nil
	}
	_, err := w.exec(w.in.claim, string(e.Evidence))
	return err
}

// intern returns the id of text in a dictionary.
func (w *writer) intern(dictionary int, text string) (int64, error) {
	t := term{dictionary, text}
	if id, ok := w.terms[t]; ok {
		return id, nil
	}
	sum := sha256.Sum256([]byte(text))
	d := w.in.dictionaries[dictionary]
	id, err := w.id(d.find, []any{sum[:]}, d.add, text, sum[:])
	if err != nil {
		return 0, fmt.Errorf("intern %q: %w", text, err)
	}
	w.terms[t] = id
	return id, nil
}

// notNil: a nil []byte would be NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
