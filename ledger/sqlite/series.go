package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/scittd/scittd/ledger"
)

// seriesSlice is how many entries are added in one transaction.
const seriesSlice = 2000

// Follow makes an issuer's series longer, slice by slice; see ledger.Series.
func (s *Store) Follow(ctx context.Context, issuer string, size uint64, most int) (more bool, err error) {
	end, err := index(size)
	if err != nil {
		return false, err
	}
	for {
		id, upto, err := s.reaches(ctx, issuer)
		if err != nil || id == 0 {
			return false, err
		}
		type place struct {
			at  int64
			sub string
		}
		var slice []place
		err = s.each(ctx, func(scan func(...any) error) error {
			var p place
			err := scan(&p.at, &p.sub)
			slice = append(slice, p)
			return err
		}, `SELECT e."index", st.sub FROM entries e JOIN statements st ON st."index" = e."index"
			WHERE e.issuer_id = ? AND e."index" >= ? AND e."index" < ? ORDER BY e."index" LIMIT ?`, id, upto, end, max(ledger.SeriesGap+1, min(most, seriesSlice)))
		if err != nil {
			return false, fmt.Errorf("follow issuer %.80q from %d: %w", issuer, upto, err)
		}
		if len(slice) <= ledger.SeriesGap || most <= 0 {
			return len(slice) > ledger.SeriesGap, nil
		}
		slice = slice[:min(len(slice), most)]
		most -= len(slice)
		err = s.update(ctx, func(tx *sql.Tx) error {
			for _, p := range slice {
				if _, err := tx.ExecContext(ctx, `INSERT INTO series (issuer_id, sub, "index") VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, id, shortHash(p.sub), p.at); err != nil {
					return err
				}
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO series_upto (issuer_id, upto) VALUES (?, ?)
				ON CONFLICT DO UPDATE SET upto = max(upto, excluded.upto)`, id, slice[len(slice)-1].at+1)
			return err
		})
		if err != nil {
			return false, fmt.Errorf("follow issuer %.80q from %d: %w", issuer, upto, err)
		}
	}
}

// reaches says how far the series of an issuer does; id 0: it has no entries.
func (s *Store) reaches(ctx context.Context, issuer string) (id, upto int64, err error) {
	sum := sha256.Sum256([]byte(issuer))
	err = s.read.QueryRowContext(ctx, `SELECT i.id, coalesce(u.upto, 0) FROM issuers i
		LEFT JOIN series_upto u ON u.issuer_id = i.id WHERE i.sha256 = ?`, sum[:]).Scan(&id, &upto)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, nil
	}
	return id, upto, classify(err)
}

// findSeries is Find by one issuer and sub: first what its series does not reach,
// then the series.
func (s *Store) findSeries(ctx context.Context, q ledger.Query) (found []ledger.Entry, err error) {
	id, upto, err := s.reaches(ctx, q.Issuers[0])
	if err != nil || id == 0 {
		return nil, err
	}
	if above := uint64(upto); q.Before == 0 || q.Before > above {
		f, err := s.filter(ctx, q)
		if err != nil || f == nil {
			return nil, err
		}
		f.and(f.key+` >= ?`, upto)
		if found, err = s.findPage(ctx, f, q.Limit); err != nil || len(found) == q.Limit {
			return found, err
		}
		q.Before = above
	}
	if q.Before == 0 {
		return found, nil
	}
	q.Issuers = nil
	f := &filter{key: `r."index"`, from: `series r CROSS JOIN entries e ON e."index" = r."index"`}
	f.and(`r.issuer_id = ? AND r.sub = ?`, id, shortHash(q.Subject))
	if f, err = s.narrow(ctx, f, q); err != nil || f == nil {
		return found, err
	}
	older, err := s.findPage(ctx, f, q.Limit-len(found))
	return append(found, older...), err
}

// shortHash is what a series has of a sub.
func shortHash(sub string) int32 {
	sum := sha256.Sum256([]byte(sub))
	return int32(binary.BigEndian.Uint32(sum[:]))
}
