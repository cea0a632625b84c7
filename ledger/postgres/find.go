package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
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
	entryColumns = `e.index, e.entry_id, i.text, ` + subject + `, e.media_type_id IS NOT NULL, m.text, e.predicate_type_id IS NOT NULL, p.text,
		e.evidence, ARRAY(SELECT digest FROM entry_subjects s WHERE s.index = e.index),
		e.private, e.registered_at, pe.entry_id, a.rule, a.identity_kind, a.identity_issuer, a.identity_thumbprint, a.identity_name`
	entryJoins = `LEFT JOIN issuers i ON i.id = e.issuer_id
		LEFT JOIN media_types m ON m.id = e.media_type_id
		LEFT JOIN predicate_types p ON p.id = e.predicate_type_id
		` + statementOf + `
		` + auditOf + `
		LEFT JOIN entries pe ON pe.index = a.policy_index`
)

// scanEntry reads entryColumns, and into extra what was selected after them.
func scanEntry(row pgx.CollectableRow, extra ...any) (ledger.Entry, error) {
	var e ledger.Entry
	var id, sub, evidence, policy []byte
	var artifacts [][]byte
	var hasMediaType, hasPredicateType bool
	var mediaType, predicateType *string
	var registered time.Time
	err := row.Scan(append([]any{
		&e.Index, &id, &e.Issuer, &sub, &hasMediaType, &mediaType, &hasPredicateType, &predicateType,
		&evidence, &artifacts,
		&e.Private, &registered, &policy, &e.Rule, &e.Identity.Kind, &e.Identity.Issuer, &e.Identity.Thumbprint, &e.Identity.Name,
	}, extra...)...)
	if err != nil {
		return e, err
	}
	if len(id) != 32 || len(policy) != 32 || sub == nil || hasMediaType != (mediaType != nil) || hasPredicateType != (predicateType != nil) {
		return e, fmt.Errorf("%w: entry %d lacks a row that belongs to it", ledger.ErrCorrupt, e.Index)
	}
	e.Subject = string(sub)
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
	d, err := statement.DigestFromBytes(b)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ledger.ErrCorrupt, err)
	}
	return d, nil
}

// Record returns everything kept of one visible entry.
func (s *Store) Record(ctx context.Context, id statement.ID, scope ledger.Scope) (ledger.Record, error) {
	var r ledger.Record
	err := s.reads.read(ctx, func(c *pgx.Conn) error {
		r = ledger.Record{}
		var q pgx.Batch // committed rows never change: two statements are as good as one
		q.Queue(`SELECT `+entryColumns+`, `+canonical+`, a.registry, a.repository, a.image FROM entries e `+entryJoins+`
			WHERE e.entry_id = $2 AND `+visible, scope == ledger.All, id[:]).
			Query(func(rows pgx.Rows) error {
				_, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (_ struct{}, err error) {
					var image []byte
					if r.Entry, err = scanEntry(row, &r.Canonical, &r.Registry, &r.Repository, &image); err == nil {
						r.Image, err = digest(image)
					}
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
	if q.Subject != "" && len(q.Issuers) == 1 && len(q.IDs)+len(q.Artifacts)+len(q.Evidence) == 0 && q.Repository == "" {
		return s.findSeries(ctx, q)
	}
	page, args := pageOf(q)
	return s.findPage(ctx, page, args)
}

// findPage fills in the rows of a page.
func (s *Store) findPage(ctx context.Context, page string, args []any) ([]ledger.Entry, error) {
	found, err := collect(ctx, s.reads,
		func(row pgx.CollectableRow) (ledger.Entry, error) { return scanEntry(row) },
		`SELECT `+entryColumns+` FROM (`+page+`) AS e `+entryJoins+` ORDER BY e.index DESC`, args...)
	if err != nil {
		return nil, fmt.Errorf("find entries: %w", err)
	}
	return found, nil
}

// Statements returns leaves with their bytes. Lengths are added up first, which
// reads no statement that is stored out of line.
func (s *Store) Statements(ctx context.Context, from uint64, limit int, scope ledger.Scope) ([]ledger.Leaf, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	if from > math.MaxInt64 {
		return nil, nil
	}
	leaves, err := collect(ctx, s.reads, func(row pgx.CollectableRow) (ledger.Leaf, error) {
		var l ledger.Leaf
		var id []byte
		if err := row.Scan(&l.Index, &id, &l.Private, &l.Canonical); err != nil {
			return l, err
		}
		var err error
		l.ID, err = entryID(int64(l.Index), id)
		return l, err
	}, `SELECT e.index, e.entry_id, e.private, CASE WHEN `+visible+` THEN `+canonical+` END
		FROM (SELECT e.index, coalesce(sum(CASE WHEN `+visible+` THEN st.length END)
				OVER (ORDER BY e.index ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS ahead
			FROM entries e `+statementOf+`
			WHERE e.index >= $2 AND e.index < $3) AS page
		JOIN entries e USING (index) `+statementOf+`
		WHERE page.ahead < $4 ORDER BY e.index`,
		scope == ledger.All, int64(from), bound(from+uint64(limit)), ledger.PageBytes)
	if err != nil {
		return nil, fmt.Errorf("read statements from %d: %w", from, err)
	}
	return leaves, nil
}

// selection is a SELECT of one page of entries being put together.
//
// Whatever is asked, one index is walked in the order of the page: that of the
// field which says most, with a second one where they share an index. Those
// columns are never compared for equality, or they would fall out of the order:
// as it is no other index gives it, and the planner, who cannot know how rare a
// value is, has nothing to guess. The first is looked for in an array of one,
// which is equality to the index alone. The next, up to the position, are bounded
// together, for the walk to end where the first of them leaves its bounds: rows
// that are compared as a whole end it nowhere else. Where the field has several
// values, each is walked for a page of its own, so that no more is ever sorted
// than a page for each; other fields are compared on the way.
type selection struct {
	from   string
	key    []string // columns of the index that is walked; the last is the position
	walked []string // what those before it are, arrays of one
	fixed  bool     // what comes before the position in that index is compared for equality
	values string   // the values of the field walked, as v (value), where there are several
	where  []string
	args   []any
}

// arg adds an argument and returns its placeholder.
func (s *selection) arg(v any) string {
	s.args = append(s.args, v)
	return "$" + strconv.Itoa(len(s.args))
}

func (s *selection) and(condition string) { s.where = append(s.where, condition) }

// walk adds a column to those that are walked, at the one value of an array.
func (s *selection) walk(column, array string) {
	at := len(s.key) - 1
	s.key, s.walked = slices.Insert(s.key, at, column), append(s.walked, array)
}

// digests adds a condition on a digest column, whose index has the first bytes.
func (s *selection) digests(column string, digests [][]byte) {
	if len(digests) == 0 {
		return
	}
	if len(s.walked) > 0 {
		s.and(column + " = ANY(" + s.arg(digests) + "::bytea[])")
		return
	}
	value := "v.value"
	if len(digests) == 1 {
		value = s.arg(digests[0]) + "::bytea"
	} else {
		s.values = "unnest(" + s.arg(digests) + "::bytea[])"
	}
	s.walk("substr("+column+", 1, 7)", "ARRAY(SELECT substr("+value+", 1, 7))")
	s.and(column + " = " + value)
}

// words adds a condition on a column that names rows of a dictionary; ids is
// the array of those meant, one if there is only one. second says that the
// column may follow those walked so far in an index.
func (s *selection) words(column, ids string, one, second bool) {
	switch {
	case s.fixed:
		s.and(column + " = ANY(" + ids + ")")
		return
	case len(s.walked) == 0 && !one:
		s.values = "unnest(" + ids + ")"
		s.walk(column, "ARRAY(SELECT v.value)")
	case one && (len(s.walked) == 0 || second):
		s.walk(column, ids)
	default:
		s.and(column + " = ANY(" + ids + ")")
		return
	}
	s.and(column + " IS NOT NULL") // what partial indexes ask for
}

// called are the rows of a dictionary that have one of the texts. They are
// looked up by hash, so that length and encoding are no concern of the server's.
func (s *selection) called(table string, texts []string) string {
	return "ARRAY(SELECT id FROM " + table + " WHERE sha256 = ANY(" + s.arg(textHashes(texts)) + "::bytea[]))"
}

// pageOf is the SELECT of one page of entries.
func pageOf(q ledger.Query) (sql string, args []any) {
	s := &selection{from: "entries e", key: []string{"e.index"}, where: []string{visible}}
	s.arg(q.Scope == ledger.All)
	return s.page(q, 0)
}

// page adds what q asks for at or above floor, and is the whole.
func (s *selection) page(q ledger.Query, floor uint64) (sql string, args []any) {

	// IDs are found before they are put in order (see Indexes), and compared
	// with everything else then.
	if len(q.IDs) > 0 {
		s.from = "(SELECT e.* FROM unnest(" + s.arg(idBytes(q.IDs)) + "::bytea[]) AS asked (id) CROSS JOIN LATERAL (" +
			"SELECT * FROM entries WHERE entry_id = id) AS e OFFSET 0) AS e"
	}
	switch artifacts := digestBytes(q.Artifacts); {
	case len(artifacts) > 0 && len(q.IDs) == 0:
		s.from, s.key = "entry_subjects s JOIN entries e USING (index)", []string{"s.index"}
		s.digests("s.digest", artifacts)
	case len(artifacts) > 0:
		s.and("EXISTS (SELECT FROM entry_subjects s WHERE s.index = e.index AND s.digest = ANY(" + s.arg(artifacts) + "::bytea[]))")
	}
	switch {
	case q.Repository == "":
	case len(q.IDs)+len(q.Artifacts) > 0:
		s.and("EXISTS (SELECT FROM deliveries d WHERE d.artifact = 'transparency' AND d.repository = " + s.arg(q.Repository) + " AND d.index = e.index)")
	default: // of several places of one claim in the repository, the first counts
		s.from, s.key = "deliveries d JOIN entries e USING (index)", []string{"d.index"}
		s.walk("d.repository", "ARRAY(SELECT "+s.arg(q.Repository)+"::text)")
		s.and("d.artifact = 'transparency'")
		s.and("NOT EXISTS (SELECT FROM deliveries o WHERE o.index = d.index AND o.repository = d.repository AND o.artifact = d.artifact" +
			" AND (o.registry, o.subject) < (d.registry, d.subject) OFFSET 0)")
	}
	s.digests("e.evidence", digestBytes(q.Evidence))
	if len(q.Issuers) > 0 {
		s.words("e.issuer_id", s.called("issuers", q.Issuers), len(q.Issuers) == 1, false)
	}
	if len(q.IssuerPrefixes) > 0 {
		// As IssuerPrefix.Covers does it. The dictionary is read to its end: it has
		// a row an issuer, and its texts are too long for an index.
		s.words("e.issuer_id", "ARRAY(SELECT id FROM issuers WHERE EXISTS (SELECT FROM unnest("+s.arg(q.IssuerPrefixes)+
			"::text[]) AS asked (prefix) WHERE prefix <> '' AND starts_with(text || right(prefix, 1), prefix)))", false, false)
	}
	byIssuer := slices.Equal(s.key, []string{"e.issuer_id", "e.index"})
	if len(q.PredicateTypes) > 0 {
		s.words("e.predicate_type_id", s.called("predicate_types", q.PredicateTypes), len(q.PredicateTypes) == 1, byIssuer)
	}
	byIssuer = byIssuer && len(s.key) == 2
	if len(q.MediaTypes) > 0 {
		s.words("e.media_type_id", s.called("media_types", q.MediaTypes), len(q.MediaTypes) == 1, byIssuer)
	}
	if q.Subject != "" {
		s.from += " " + statementOf
		s.and("(" + subject + ") = " + s.arg([]byte(q.Subject)) + "::bytea")
	}

	// Registration times never decrease, so a time is a place in the log: the
	// size of the last head before it.
	place := func(t time.Time) string {
		return "(SELECT coalesce(max(size), 0) FROM heads WHERE iat < " + s.arg(second(t)) + ")"
	}
	from := "0::bigint"
	if floor > 0 {
		from = s.arg(bound(floor)) + "::bigint"
	}
	to := s.arg(int64(math.MaxInt64)) + "::bigint"
	if q.Before > 0 {
		s.args[len(s.args)-1] = bound(q.Before)
	}
	if !q.Since.IsZero() {
		from = "GREATEST(" + from + ", " + place(q.Since) + ")"
	}
	if !q.Until.IsZero() {
		to = "LEAST(" + to + ", " + place(q.Until) + ")"
	}
	key, at := s.key, ""
	for i, array := range s.walked {
		if i == 0 {
			s.and(key[0] + " = ANY(" + array + ")")
			key = key[1:]
		} else {
			at += "(" + array + ")[1], "
		}
	}
	s.and("(" + strings.Join(key, ", ") + ") >= (" + at + from + ")")
	s.and("(" + strings.Join(key, ", ") + ") < (" + at + to + ")")

	limit := " DESC LIMIT " + s.arg(q.Limit)
	page := "SELECT e.* FROM " + s.from + " WHERE " + strings.Join(s.where, " AND ") + " ORDER BY " + strings.Join(s.key, " DESC, ") + limit
	if s.values != "" {
		page = "SELECT DISTINCT ON (w.index) w.* FROM " + s.values + " AS v (value) CROSS JOIN LATERAL (" + page + ") AS w ORDER BY w.index" + limit
	}
	return page, s.args
}

// second rounds up to what registration times are: whole seconds. PostgreSQL
// would cut what is below its microseconds, and so let in what lies before.
func second(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
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
