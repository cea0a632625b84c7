package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// visible is the condition of every lookup: $1 is whether the caller may see
// private entries.
const visible = `(NOT e.private OR $1)`

// Indexes maps those of ids that are registered and visible to their index. Each
// is a lookup of its own in the unique index, whatever the planner believes
// about the table: entry_id = ANY (…) reads all of a table without statistics.
func (s *Store) Indexes(ctx context.Context, ids []statement.ID, scope ledger.Scope) (map[statement.ID]uint64, error) {
	type row struct {
		id    statement.ID
		index uint64
	}
	found, err := collect(ctx, s.reads, func(r pgx.CollectableRow) (row, error) {
		var got row
		var id []byte
		err := r.Scan(&id, &got.index)
		copy(got.id[:], id)
		return got, err
	}, `SELECT id, index FROM (
			SELECT id, (SELECT index FROM entries e WHERE entry_id = id AND `+visible+`) AS index
			FROM unnest($2::bytea[]) AS asked (id) OFFSET 0) AS found
		WHERE index IS NOT NULL`,
		scope == ledger.All, idBytes(ids))
	if err != nil {
		return nil, fmt.Errorf("look up %d entries: %w", len(ids), err)
	}
	indexes := make(map[statement.ID]uint64, len(found))
	for _, r := range found {
		indexes[r.id] = r.index
	}
	return indexes, nil
}

// entryColumns and entryJoins read a ledger.Entry around a row e of entries.
// The joins are outer ones: a row that is missing is damage, and fails to scan
// instead of hiding the entry.
const (
	entryColumns = `e.index, e.entry_id, i.text, st.sub, e.media_type_id IS NOT NULL, m.text, e.predicate_type_id IS NOT NULL, p.text,
		e.evidence, ARRAY(SELECT digest FROM entry_subjects s WHERE s.index = e.index),
		e.private, e.registered_at, pe.entry_id, a.rule, a.identity_kind, a.identity_issuer, a.identity_thumbprint`
	entryJoins = `LEFT JOIN issuers i ON i.id = e.issuer_id
		LEFT JOIN media_types m ON m.id = e.media_type_id
		LEFT JOIN predicate_types p ON p.id = e.predicate_type_id
		LEFT JOIN statements st ON st.index = e.index
		LEFT JOIN audit a ON a.index = e.index
		LEFT JOIN entries pe ON pe.index = a.policy_index`
)

// scanEntry reads entryColumns, and into extra what was selected after them.
func scanEntry(row pgx.CollectableRow, extra ...any) (ledger.Entry, error) {
	var e ledger.Entry
	var id, evidence, policy []byte
	var artifacts [][]byte
	var hasMediaType, hasPredicateType bool
	var mediaType, predicateType *string
	var registered time.Time
	err := row.Scan(append([]any{
		&e.Index, &id, &e.Issuer, &e.Subject, &hasMediaType, &mediaType, &hasPredicateType, &predicateType,
		&evidence, &artifacts,
		&e.Private, &registered, &policy, &e.Rule, &e.Identity.Kind, &e.Identity.Issuer, &e.Identity.Thumbprint,
	}, extra...)...)
	if err != nil {
		return e, err
	}
	if len(id) != 32 || len(policy) != 32 || hasMediaType != (mediaType != nil) || hasPredicateType != (predicateType != nil) {
		return e, fmt.Errorf("entry %d lacks a row that belongs to it", e.Index)
	}
	e.ID, e.Policy, e.RegisteredAt = statement.ID(id), statement.ID(policy), registered.UTC()
	if mediaType != nil {
		e.MediaType = *mediaType
	}
	if predicateType != nil {
		e.PredicateType = *predicateType
	}
	if e.Evidence, err = digest(evidence); err != nil {
		return e, err
	}
	for _, b := range artifacts {
		d, err := digest(b)
		if err != nil {
			return e, err
		}
		e.Artifacts = append(e.Artifacts, d)
	}
	slices.Sort(e.Artifacts)
	return e, nil
}

// digest reads a digest column; NULL is "".
func digest(b []byte) (statement.Digest, error) {
	if b == nil {
		return "", nil
	}
	return statement.DigestFromBytes(b)
}

// Record returns everything kept of one visible entry.
func (s *Store) Record(ctx context.Context, id statement.ID, scope ledger.Scope) (ledger.Record, error) {
	var r ledger.Record
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		r = ledger.Record{}
		var q pgx.Batch // committed rows never change: two statements are as good as one
		q.Queue(`SELECT `+entryColumns+`, st.canonical, a.registry, a.repository FROM entries e `+entryJoins+`
			WHERE e.entry_id = $2 AND `+visible, scope == ledger.All, id[:]).
			Query(func(rows pgx.Rows) error {
				_, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (_ struct{}, err error) {
					r.Entry, err = scanEntry(row, &r.Canonical, &r.Registry, &r.Repository)
					return struct{}{}, err
				})
				return err
			})
		q.Queue(`SELECT ec.kind, c.data FROM entries e
			JOIN entry_collateral ec USING (index) LEFT JOIN collateral c USING (sha256)
			WHERE e.entry_id = $2 AND `+visible+` ORDER BY ec.position`, scope == ledger.All, id[:]).
			Query(func(rows pgx.Rows) (err error) {
				r.Collateral, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Collateral, error) {
					var c ledger.Collateral
					err := row.Scan(&c.Kind, &c.Data)
					if err == nil && c.Data == nil {
						err = fmt.Errorf("entry %d lacks its collateral", r.Index)
					}
					return c, err
				})
				return err
			})
		return c.SendBatch(ctx, &q).Close()
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.Record{}, ledger.ErrNotFound
	}
	if err != nil {
		return ledger.Record{}, fmt.Errorf("read entry %s: %w", id, err)
	}
	return r, nil
}

// Find returns the entries that match q, newest first.
//
// The page is found in the narrow tables alone; what an Entry shows beyond them
// is read for the rows of the page.
func (s *Store) Find(ctx context.Context, q ledger.Query) ([]ledger.Entry, error) {
	if q.Limit < 1 || q.Limit > ledger.MaxPage {
		return nil, fmt.Errorf("find entries: limit %d is not within 1..%d", q.Limit, ledger.MaxPage)
	}
	page, args := pageOf(q)
	found, err := collect(ctx, s.reads,
		func(row pgx.CollectableRow) (ledger.Entry, error) { return scanEntry(row) },
		`SELECT `+entryColumns+` FROM (`+page+`) AS e `+entryJoins+` ORDER BY e.index DESC`, args...)
	if err != nil {
		return nil, fmt.Errorf("find entries: %w", err)
	}
	return found, nil
}

// selection is a SELECT of entries being put together.
type selection struct {
	from, key string // key is the column that pages follow
	where     []string
	args      []any
}

// arg adds an argument and returns its placeholder.
func (s *selection) arg(v any) string {
	s.args = append(s.args, v)
	return "$" + strconv.Itoa(len(s.args))
}

// and adds a condition. One value is compared by =, so that its index also gives
// the order; several in whatever way the planner thinks best.
func (s *selection) and(condition string) { s.where = append(s.where, condition) }

// pageOf is the SELECT of one page of entries.
func pageOf(q ledger.Query) (sql string, args []any) {
	s := &selection{from: "entries e", key: "e.index", where: []string{visible}}
	s.arg(q.Scope == ledger.All)

	switch ids := idBytes(q.IDs); len(ids) {
	case 0:
	case 1:
		s.and("e.entry_id = " + s.arg(ids[0]))
	default: // found before they are put in order: see Indexes
		s.and("e.index = ANY(ARRAY(SELECT (SELECT index FROM entries WHERE entry_id = id) FROM unnest(" + s.arg(ids) + "::bytea[]) AS asked (id)))")
	}
	switch artifacts := digestBytes(q.Artifacts); len(artifacts) {
	case 0:
	case 1:
		s.from, s.key = "entry_subjects s JOIN entries e USING (index)", "s.index"
		s.and("s.digest = " + s.arg(artifacts[0]))
	default:
		s.and("e.index IN (SELECT index FROM entry_subjects WHERE digest = ANY(" + s.arg(artifacts) + "::bytea[]))")
	}
	switch evidence := digestBytes(q.Evidence); len(evidence) {
	case 0:
	case 1:
		s.and("e.evidence = " + s.arg(evidence[0]))
	default:
		s.and("e.evidence = ANY(" + s.arg(evidence) + "::bytea[])")
	}
	s.words("issuer_id", "issuers", q.Issuers)
	if len(q.IssuerPrefixes) > 0 {
		// As IssuerPrefix.Covers does it. The dictionary is read to its end: it has
		// a row an issuer, and its texts are too long for an index.
		s.and("e.issuer_id = ANY(ARRAY(SELECT id FROM issuers WHERE EXISTS (SELECT FROM unnest(" + s.arg(q.IssuerPrefixes) +
			"::text[]) AS asked (prefix) WHERE prefix <> '' AND starts_with(text || right(prefix, 1), prefix))))")
	}
	s.words("media_type_id", "media_types", q.MediaTypes)
	s.words("predicate_type_id", "predicate_types", q.PredicateTypes)

	// Registration times never decrease, so a time is a place in the log: the
	// size of the last head before it.
	if !q.Since.IsZero() {
		s.and(s.key + " >= (SELECT coalesce(max(size), 0) FROM heads WHERE iat < " + s.arg(second(q.Since)) + ")")
	}
	if !q.Until.IsZero() {
		s.and(s.key + " < (SELECT coalesce(max(size), 0) FROM heads WHERE iat < " + s.arg(second(q.Until)) + ")")
	}
	if q.Before > 0 {
		s.and(s.key + " < " + s.arg(bound(q.Before)))
	}
	limit := s.arg(q.Limit)
	return "SELECT e.* FROM " + s.from + " WHERE " + strings.Join(s.where, " AND ") +
		" ORDER BY " + s.key + " DESC LIMIT " + limit, s.args
}

// second rounds up to what registration times are: whole seconds. PostgreSQL
// would cut what is below its microseconds, and so let in what lies before.
func second(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
}

// words adds a condition on a dictionary's texts. They are looked up by hash, so
// that their length and encoding are no concern of the server's.
func (s *selection) words(column, table string, texts []string) {
	switch hashes := textHashes(texts); len(hashes) {
	case 0:
	case 1:
		s.and("e." + column + " = (SELECT id FROM " + table + " WHERE sha256 = " + s.arg(hashes[0]) + ")")
	default:
		s.and("e." + column + " = ANY(ARRAY(SELECT id FROM " + table + " WHERE sha256 = ANY(" + s.arg(hashes) + "::bytea[])))")
	}
}

func idBytes(ids []statement.ID) [][]byte {
	all := make([][]byte, len(ids))
	for i := range ids {
		all[i] = ids[i][:]
	}
	return all
}

func digestBytes(digests []statement.Digest) [][]byte {
	all := make([][]byte, len(digests))
	for i, d := range digests {
		all[i] = notNil(d.Bytes()) // what is no digest equals none
	}
	return all
}

func textHashes(texts []string) [][]byte {
	all := make([][]byte, len(texts))
	for i, text := range texts {
		sum := sha256.Sum256([]byte(text))
		all[i] = sum[:]
	}
	return all
}
