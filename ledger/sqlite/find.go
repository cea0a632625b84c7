package sqlite

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// visible is the condition that every lookup of entries e carries: what a
// public scope must not see is not selected.
const visible = `(? OR e.private = 0)`

// Indexes maps registered, visible ids to their index.
func (s *Store) Indexes(ctx context.Context, ids []statement.ID, scope ledger.Scope) (map[statement.ID]uint64, error) {
	found := map[statement.ID]uint64{}
	if len(ids) == 0 {
		return found, nil
	}
	rows, err := s.read.QueryContext(ctx, `SELECT e.entry_id, e."index" FROM entries e
		WHERE e.entry_id IN (SELECT unhex(value) FROM json_each(?)) AND `+visible, hexes(ids), scope == ledger.All)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id []byte
		var at uint64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, classify(err)
		}
		of, err := entryID(at, id)
		if err != nil {
			return nil, err
		}
		found[of] = at
	}
	return found, classify(rows.Err())
}

// entryID reads the ID of an entry. The table's CHECK speaks of what was written,
// not of what is there now.
func entryID(at uint64, b []byte) (statement.ID, error) {
	if len(b) != 32 {
		return statement.ID{}, fmt.Errorf("%w: the ID of entry %d has %d bytes", ledger.ErrCorrupt, at, len(b))
	}
	return statement.ID(b), nil
}

// entryColumns of an entry row e with what is kept apart from it. policy is the
// entry of the policy it was judged under.
const (
	entryColumns = `e."index", e.entry_id, i.text, st.sub, m.text, p.text, e.evidence, e.private, e.registered_at,
		policy.entry_id, a.rule, a.identity,
		(SELECT json_group_array(digest) FROM entry_subjects WHERE "index" = e."index")`
	entryJoins = `
		JOIN issuers i ON i.id = e.issuer_id
		JOIN media_types m ON m.id = e.media_type_id
		JOIN predicate_types p ON p.id = e.predicate_type_id
		JOIN statements st ON st."index" = e."index"
		JOIN audit a ON a."index" = e."index"
		JOIN entries policy ON policy."index" = a.policy_index`
)

// scanEntry reads entryColumns and whatever follows them.
func scanEntry(scan func(...any) error, more ...any) (ledger.Entry, error) {
	var e ledger.Entry
	var id, policy, identity, artifacts []byte
	var evidence string
	var at int64
	err := scan(append([]any{&e.Index, &id, &e.Issuer, &e.Subject, &e.MediaType, &e.PredicateType, &evidence, &e.Private, &at,
		&policy, &e.Rule, &identity, &artifacts}, more...)...)
	if err != nil {
		return e, classify(err)
	}
	e.Evidence, e.RegisteredAt = statement.Digest(evidence), fromSeconds(at)
	if e.ID, err = entryID(e.Index, id); err != nil {
		return e, err
	}
	if e.Policy, err = entryID(e.Index, policy); err != nil {
		return e, err
	}
	if err := json.Unmarshal(identity, &e.Identity); err != nil {
		return e, fmt.Errorf("%w: identity of entry %d: %v", ledger.ErrCorrupt, e.Index, err)
	}
	if err := json.Unmarshal(artifacts, &e.Artifacts); err != nil {
		return e, fmt.Errorf("%w: artifacts of entry %d: %v", ledger.ErrCorrupt, e.Index, err)
	}
	if len(e.Artifacts) == 0 {
		e.Artifacts = nil
	}
	slices.Sort(e.Artifacts)
	return e, nil
}

// Record returns everything kept of one visible entry.
func (s *Store) Record(ctx context.Context, id statement.ID, scope ledger.Scope) (ledger.Record, error) {
	var r ledger.Record
	row := s.read.QueryRowContext(ctx, `SELECT `+entryColumns+`, st.canonical, a.registry, a.repository, a.image
		FROM entries e`+entryJoins+` WHERE e.entry_id = ? AND `+visible, id[:], scope == ledger.All)
	var err error
	if r.Entry, err = scanEntry(row.Scan, &r.Canonical, &r.Registry, &r.Repository, &r.Image); err != nil {
		return ledger.Record{}, err
	}
	rows, err := s.read.QueryContext(ctx, `SELECT c.kind, c.data FROM entry_collateral ec
		JOIN collateral c ON c.id = ec.collateral_id
		JOIN entries e ON e."index" = ec."index"
		WHERE ec."index" = ? AND `+visible+` ORDER BY ec.position`, int64(r.Index), scope == ledger.All)
	if err != nil {
		return ledger.Record{}, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var c ledger.Collateral
		if err := rows.Scan(&c.Kind, &c.Data); err != nil {
			return ledger.Record{}, classify(err)
		}
		r.Collateral = append(r.Collateral, c)
	}
	return r, classify(rows.Err())
}

// Find walks one index, newest first, from q.Before on.
func (s *Store) Find(ctx context.Context, q ledger.Query) ([]ledger.Entry, error) {
	if q.Limit < 1 || q.Limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", q.Limit, ledger.MaxPage)
	}
	if q.Subject != "" && len(q.Issuers) == 1 && len(q.IDs)+len(q.Artifacts)+len(q.Evidence) == 0 && q.Repository == "" {
		return s.findSeries(ctx, q)
	}
	f, err := s.filter(ctx, q)
	if err != nil || f == nil {
		return nil, err
	}
	return s.findPage(ctx, f, q.Limit)
}

// findPage reads one page of what f selects.
func (s *Store) findPage(ctx context.Context, f *filter, limit int) ([]ledger.Entry, error) {
	// The page is chosen on the narrow rows alone, then filled in.
	rows, err := s.read.QueryContext(ctx, `SELECT `+entryColumns+` FROM (`+f.page()+`) page
		JOIN entries e ON e."index" = page.at`+entryJoins+` ORDER BY e."index" DESC`, append(f.args, limit)...)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var found []ledger.Entry
	for rows.Next() {
		e, err := scanEntry(rows.Scan)
		if err != nil {
			return nil, err
		}
		found = append(found, e)
	}
	return found, classify(rows.Err())
}

// Statements returns leaves with their bytes. Lengths are added up first, which
// reads no statement longer than a page of the file.
func (s *Store) Statements(ctx context.Context, from uint64, limit int, scope ledger.Scope) ([]ledger.Leaf, error) {
	if limit < 1 || limit > ledger.MaxPage {
		return nil, fmt.Errorf("page of %d is not within 1..%d", limit, ledger.MaxPage)
	}
	low, err := index(from)
	if err != nil {
		return nil, nil
	}
	const visible = `(?1 OR e.private = 0)`
	rows, err := s.read.QueryContext(ctx, `
		SELECT e."index", e.entry_id, e.private, CASE WHEN `+visible+` THEN st.canonical END
		FROM (SELECT e."index" AS at, coalesce(sum(CASE WHEN `+visible+` THEN length(st.canonical) END)
				OVER (ORDER BY e."index" ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS ahead
			FROM entries e LEFT JOIN statements st ON st."index" = e."index"
			WHERE e."index" >= ?2 AND e."index" < ?3) page
		JOIN entries e ON e."index" = page.at LEFT JOIN statements st ON st."index" = page.at
		WHERE page.ahead < ?4 ORDER BY e."index"`,
		scope == ledger.All, low, min(low, math.MaxInt64-ledger.MaxPage)+int64(limit), ledger.PageBytes)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var leaves []ledger.Leaf
	for rows.Next() {
		var l ledger.Leaf
		var id []byte
		if err := rows.Scan(&l.Index, &id, &l.Private, &l.Canonical); err != nil {
			return nil, classify(err)
		}
		if l.ID, err = entryID(l.Index, id); err != nil {
			return nil, err
		}
		leaves = append(leaves, l)
	}
	return leaves, classify(rows.Err())
}

// filter is a Query as SQL: key is the column of the index that is walked.
type filter struct {
	key, from string
	where     []string
	args      []any
}

func (f *filter) and(condition string, args ...any) {
	f.where = append(f.where, condition)
	f.args = append(f.args, args...)
}

// page selects the indexes of one page; its last parameter is the limit.
func (f *filter) page() string {
	return `SELECT ` + f.key + ` AS at FROM ` + f.from + ` WHERE ` + strings.Join(f.where, " AND ") +
		` ORDER BY ` + f.key + ` DESC LIMIT ?`
}

// filter makes the conditions of q; nil when nothing can match.
func (s *Store) filter(ctx context.Context, q ledger.Query) (*filter, error) {
	return s.narrow(ctx, &filter{key: `e."index"`, from: `entries e`}, q)
}

// narrow adds them to f.
func (s *Store) narrow(ctx context.Context, f *filter, q ledger.Query) (*filter, error) {
	if len(q.Artifacts) == 1 {
		// One artifact is walked in its own table, however many claims it has.
		f.key, f.from = `es."index"`, `entry_subjects es CROSS JOIN entries e ON e."index" = es."index"`
		f.and(`es.digest = ?`, string(q.Artifacts[0]))
	} else if len(q.Artifacts) > 1 {
		f.and(`e."index" IN (SELECT "index" FROM entry_subjects WHERE digest IN (SELECT value FROM json_each(?)))`, list(q.Artifacts))
	}
	if q.Repository != "" && len(q.Artifacts) == 0 {
		f.key, f.from = `d."index"`, `deliveries d CROSS JOIN entries e ON e."index" = d."index"`
	}
	f.and(visible, q.Scope == ledger.All)
	if q.Before > 0 {
		before, err := index(q.Before)
		if err == nil {
			f.and(f.key+` < ?`, before)
		}
	}
	if len(q.IDs) > 0 {
		f.and(`e.entry_id IN (SELECT unhex(value) FROM json_each(?))`, hexes(q.IDs))
	}
	switch len(q.Evidence) {
	case 0:
	case 1:
		f.and(`e.evidence = ? AND e.evidence <> ''`, string(q.Evidence[0]))
	default:
		f.and(`e.evidence IN (SELECT value FROM json_each(?)) AND e.evidence <> ''`, list(q.Evidence))
	}
	switch {
	case q.Repository == "":
	case len(q.Artifacts) > 0:
		f.and(`EXISTS (SELECT 1 FROM deliveries d WHERE d."index" = e."index" AND d.repository = ? AND d.artifact = 'transparency')`, q.Repository)
	default: // what a repository has is walked in its own order; of several places of one claim, the first counts
		f.and(`d.repository = ? AND d.artifact = 'transparency' AND NOT EXISTS (SELECT 1 FROM deliveries first
			WHERE first."index" = d."index" AND first.repository = d.repository AND first.artifact = d.artifact AND first.id < d.id)`, q.Repository)
	}
	for _, d := range []struct {
		asked         int
		column, table string
		where, values string
	}{
		{len(q.Issuers), `e.issuer_id`, `issuers`, isOneOf, sums(q.Issuers)},
		{len(q.IssuerPrefixes), `e.issuer_id`, `issuers`, isCovered, list(q.IssuerPrefixes)},
		{len(q.MediaTypes), `e.media_type_id`, `media_types`, isOneOf, sums(q.MediaTypes)},
		{len(q.PredicateTypes), `e.predicate_type_id`, `predicate_types`, isOneOf, sums(q.PredicateTypes)},
	} {
		if d.asked == 0 {
			continue
		}
		ids, err := s.terms(ctx, d.table, d.where, d.values)
		switch {
		case err != nil:
			return nil, err
		case len(ids) == 0:
			return nil, nil
		case len(ids) == 1: // an index is walked in order for = only
			f.and(d.column+` = ?`, ids[0])
		default:
			f.and(d.column+` IN (SELECT value FROM json_each(?))`, list(ids))
		}
	}
	if q.Subject != "" {
		f.and(`EXISTS (SELECT 1 FROM statements st WHERE st."index" = e."index" AND st.sub = ?)`, q.Subject)
	}
	// Registration times never decrease, so a time is a place in the log: the
	// size of the last head before it.
	const before = `(SELECT coalesce(max(size), 0) FROM heads INDEXED BY heads_iat WHERE iat < ?)`
	if !q.Since.IsZero() {
		f.and(f.key+` >= `+before, ceilSeconds(q.Since))
	}
	if !q.Until.IsZero() {
		f.and(f.key+` < `+before, ceilSeconds(q.Until))
	}
	return f, nil
}

// Which texts of a dictionary are meant by a list of values. The empty text
// stands for what an entry lacks, and is not to be found.
const (
	isOneOf = `sha256 IN (SELECT unhex(value) FROM json_each(?)) AND text <> ''`

	// As IssuerPrefix.Covers does it. The dictionary is read to its end: it has a
	// row an issuer.
	isCovered = `EXISTS (SELECT 1 FROM json_each(?)
		WHERE value <> '' AND substr(text || substr(value, -1), 1, length(value)) = value)`
)

// terms returns the ids of the texts of a dictionary that are meant.
func (s *Store) terms(ctx context.Context, table, where, values string) ([]int64, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id FROM `+table+` WHERE `+where, values)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, classify(err)
		}
		ids = append(ids, id)
	}
	return ids, classify(rows.Err())
}

// sums are the keys of a dictionary's texts.
func sums(texts []string) string {
	s := make([]string, len(texts))
	for i, t := range texts {
		sum := sha256.Sum256([]byte(t))
		s[i] = hex.EncodeToString(sum[:])
	}
	return list(s)
}

func hexes(ids []statement.ID) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = hex.EncodeToString(id[:])
	}
	return list(s)
}

// list is a parameter for json_each.
func list[T cmp.Ordered](values []T) string {
	b, err := json.Marshal(values)
	if err != nil {
		panic(err) // strings and integers always encode
	}
	return string(b)
}

// ceilSeconds rounds up: registration times are whole seconds.
func ceilSeconds(t time.Time) int64 {
	sec := t.Unix()
	if t.Nanosecond() > 0 {
		sec++
	}
	return sec
}
