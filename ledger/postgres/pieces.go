package postgres

import (
	"bytes"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
)

// Statements of one batch share rows of the table pieces, up to these limits.
// The second keeps cuts inside the row, however short the statements are; what
// alone is larger than a piece has one to itself.
const (
	pieceBytes      = 64 << 10
	pieceStatements = 64
)

// chunkBytes is TOAST_MAX_CHUNK_SIZE of PostgreSQL as everybody builds it. For a
// server with another one, the split is as right and not as tight.
const chunkBytes = 1996

// piece is a row of the table: see migration 00002.
type piece struct {
	first int64
	cuts  []int32
	data  []byte // with rest
}

// columns are data, in whole chunks, and rest.
func (p *piece) columns() (data, rest []byte) {
	n := len(p.data) - len(p.data)%chunkBytes
	return notNil(p.data[:n]), notNil(p.data[n:])
}

// add puts the statement of e behind the others.
func (p *piece) add(e *ledger.NewEntry) {
	at, n := int32(len(p.data)+1), int32(len(e.Canonical))
	p.data = append(p.data, e.Canonical...)
	p.cuts = append(p.cuts, at, n, at+n, 0)
	p.locate(len(p.cuts)-4, e.Subject)
}

// locate cuts out the sub of the statement at a cut. It is taken from the
// statement's own bytes, wherever they hold it first: equal text is equal text.
func (p *piece) locate(cut int, sub string) {
	at, n := p.cuts[cut], p.cuts[cut+1]
	if i := bytes.Index(p.data[at-1:][:n], []byte(sub)); i >= 0 {
		at += int32(i)
	} else {
		at = int32(len(p.data) + 1)
		p.data = append(p.data, sub...)
	}
	p.cuts[cut+2], p.cuts[cut+3] = at, int32(len(sub))
}

// pack lays the statements of a batch, in order, into as few pieces as hold them.
func pack(entries []ledger.NewEntry) []piece {
	var pieces []piece
	for i := range entries {
		e := &entries[i]
		last := len(pieces) - 1
		if last < 0 || len(pieces[last].cuts) == 4*pieceStatements || len(pieces[last].data)+len(e.Canonical) > pieceBytes {
			pieces = append(pieces, piece{first: int64(e.Index), data: make([]byte, 0, room(entries[i:]))})
			last++
		}
		pieces[last].add(e)
	}
	return pieces
}

// room is how many bytes a piece that begins with entries will have.
func room(entries []ledger.NewEntry) int {
	n := len(entries[0].Canonical)
	for _, e := range entries[1:min(len(entries), pieceStatements)] {
		if n+len(e.Canonical) > pieceBytes {
			break
		}
		n += len(e.Canonical)
	}
	return n
}

// statementOf joins st, the place of the statement of entry e in its piece, which
// is the last one that begins at or before it. Where the piece is missing, its
// predecessor has no such cut, and the statement is NULL.
const statementOf = `LEFT JOIN LATERAL (
		SELECT data, rest, octet_length(data) AS border,
		       cuts[cut + 1] AS at, cuts[cut + 2] AS length, cuts[cut + 3] AS sub_at, cuts[cut + 4] AS sub_length
		FROM (SELECT data, rest, cuts, 4 * (e.index - first)::integer AS cut
			FROM pieces WHERE first <= e.index ORDER BY first DESC LIMIT 1) AS piece) AS st ON true`

// What statementOf finds, as bytes. A substring that begins before its string or
// behind it is what both have in common.
const (
	canonical = `substring(st.data FROM st.at FOR st.length) || substring(st.rest FROM st.at - st.border FOR st.length)`
	subject   = `substring(st.data FROM st.sub_at FOR st.sub_length) || substring(st.rest FROM st.sub_at - st.border FOR st.sub_length)`
)

// relocate cuts out the sub of an entry anew; its statement stays as it is.
func relocate(ctx context.Context, tx pgx.Tx, e ledger.Entry) error {
	var p piece
	err := tx.QueryRow(ctx, `SELECT first, cuts, data || rest FROM pieces WHERE first <= $1 ORDER BY first DESC LIMIT 1`, int64(e.Index)).
		Scan(&p.first, &p.cuts, &p.data)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // no statement, nothing to say of it
	}
	if err != nil {
		return err
	}
	cut := 4 * (int64(e.Index) - p.first)
	if cut+4 > int64(len(p.cuts)) || !p.holds(int(cut)) {
		return nil
	}
	p.locate(int(cut), e.Subject)
	data, rest := p.columns()
	_, err = tx.Exec(ctx, `UPDATE pieces SET cuts = $2, data = $3, rest = $4 WHERE first = $1`, p.first, p.cuts, data, rest)
	return err
}

// holds says whether a cut's statement lies inside the piece.
func (p *piece) holds(cut int) bool {
	at, n := int64(p.cuts[cut]), int64(p.cuts[cut+1])
	return at >= 1 && n >= 0 && at-1+n <= int64(len(p.data))
}
