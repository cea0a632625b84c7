package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
)

// seriesSlice is how many entries are added in one transaction, which has its
// seconds.
const seriesSlice = 2000

// Follow makes an issuer's series longer, slice by slice; see ledger.Series. Who
// does it at the same time adds the same rows.
func (s *Store) Follow(ctx context.Context, issuer string, size uint64, most int) (more bool, err error) {
	for {
		id, upto, behind, err := s.reaches(ctx, issuer, size)
		if err != nil || behind <= ledger.SeriesGap || most <= 0 {
			return behind > ledger.SeriesGap, err
		}
		slice := min(most, seriesSlice)
		most -= slice
		err = s.work.run(ctx, func(c *pgx.Conn) error {
			_, err := c.Exec(ctx, `WITH slice AS MATERIALIZED (
					SELECT page.index, `+subject+` AS sub FROM (
						SELECT index FROM entries e WHERE (e.issuer_id, e.index) >= ($1, $2::bigint) AND (e.issuer_id, e.index) < ($1, $3::bigint)
						ORDER BY e.issuer_id, e.index LIMIT $4) AS page
					JOIN LATERAL (SELECT page.index) AS e ON true `+statementOf+`),
				added AS (
					INSERT INTO series (issuer_id, sub, index)
					SELECT $1, ('x' || encode(substr(sha256(sub), 1, 4), 'hex'))::bit(32)::integer, index FROM slice WHERE sub IS NOT NULL
					ON CONFLICT DO NOTHING)
				INSERT INTO series_upto (issuer_id, upto) SELECT $1, max(index) + 1 FROM slice HAVING count(*) > 0
				ON CONFLICT (issuer_id) DO UPDATE SET upto = greatest(series_upto.upto, excluded.upto)`,
				id, upto, bound(size), slice)
			return err
		})
		if err != nil {
			return false, fmt.Errorf("follow issuer %.80q from %d: %w", issuer, upto, err)
		}
	}
}

// reaches says how far the series of an issuer does, and how many entries below
// size lie behind that, if it is not many more than matter.
func (s *Store) reaches(ctx context.Context, issuer string, size uint64) (id int32, upto int64, behind int, err error) {
	err = s.reads.read(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT i.id, coalesce(u.upto, 0), (SELECT count(*) FROM (
				SELECT FROM entries e WHERE (e.issuer_id, e.index) >= (i.id, coalesce(u.upto, 0)) AND (e.issuer_id, e.index) < (i.id, $2::bigint)
				ORDER BY e.issuer_id, e.index LIMIT $3) AS gap)
			FROM issuers i LEFT JOIN series_upto u ON u.issuer_id = i.id WHERE i.sha256 = $1`,
			textHashes([]string{issuer})[0], bound(size), ledger.SeriesGap+1).Scan(&id, &upto, &behind)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, 0, nil // it has no entries
	}
	if err != nil {
		err = fmt.Errorf("look how far issuer %.80q is followed: %w", issuer, err)
	}
	return id, upto, behind, err
}

// findSeries is Find by one issuer and sub: first what its series does not reach,
// then the series.
func (s *Store) findSeries(ctx context.Context, q ledger.Query) (found []ledger.Entry, err error) {
	_, upto, _, err := s.reaches(ctx, q.Issuers[0], 0)
	if err != nil {
		return nil, err
	}
	if above := uint64(upto); q.Before == 0 || q.Before > above {
		page, args := pageOfTail(q, above)
		if found, err = s.findPage(ctx, page, args); err != nil || len(found) == q.Limit {
			return found, err
		}
		q.Before = above
	}
	if q.Before == 0 {
		return found, nil
	}
	q.Limit -= len(found)
	page, args := pageOfSeries(q)
	older, err := s.findPage(ctx, page, args)
	return append(found, older...), err
}

// pageOfSeries is the SELECT of one page of an issuer's series. It compares for
// equality: rows that are compared as a whole end a walk only where their first
// column does, which is far behind the sub.
func pageOfSeries(q ledger.Query) (sql string, args []any) {
	s := &selection{from: "series r JOIN entries e USING (index)", key: []string{"r.index"}, where: []string{visible}, fixed: true}
	s.arg(q.Scope == ledger.All)
	s.and("r.issuer_id = (" + s.called("issuers", q.Issuers) + ")[1]")
	s.and("r.sub = " + s.arg(shortHash(q.Subject)) + "::integer")
	q.Issuers = nil
	return s.page(q, 0)
}

// pageOfTail is that of the issuer's entries from floor on, which are few.
func pageOfTail(q ledger.Query, floor uint64) (sql string, args []any) {
	s := &selection{from: "entries e", key: []string{"e.index"}, where: []string{visible}, fixed: true}
	s.arg(q.Scope == ledger.All)
	s.and("e.issuer_id = (" + s.called("issuers", q.Issuers) + ")[1]")
	q.Issuers = nil
	return s.page(q, floor)
}

// shortHash is what a series has of a sub.
func shortHash(sub string) int32 {
	sum := sha256.Sum256([]byte(sub))
	return int32(binary.BigEndian.Uint32(sum[:]))
}
