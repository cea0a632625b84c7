package postgres

import (
	"context"
	"crypto"
	_ "crypto/sha256" // the digests of evidence
	_ "crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

const (
	chunkSize = 1 << 20
	// silence is how long an upload may pause before Sweep counts it as dead.
	silence = 10 * time.Minute
)

// Stage writes r chunk by chunk, each a transaction of its own: a slow client
// holds neither a connection nor a lock. Only the last step makes the piece
// visible. The quota is checked with every chunk; uploads that run at the same
// moment may exceed it by one chunk each.
func (s *Store) Stage(ctx context.Context, digest statement.Digest, r io.Reader, limits ledger.StagingLimits) (int64, error) {
	size, err := s.stage(ctx, digest, r, limits)
	if err != nil {
		return 0, fmt.Errorf("stage %s: %w", digest, err)
	}
	return size, nil
}

func (s *Store) stage(ctx context.Context, digest statement.Digest, r io.Reader, limits ledger.StagingLimits) (int64, error) {
	algorithm, ok := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}[digest.Algorithm()]
	if !ok || len(digest.Bytes()) != algorithm.Size() {
		return 0, fmt.Errorf("%w: not a digest", ledger.ErrDigest)
	}
	c := &checked{r: r, limit: limits.MaxSize, hash: algorithm.New(), want: digest}

	_, _, err := s.piece(ctx, digest)
	switch {
	case err == nil: // there already: read and check, then renew its time
		size, err := io.Copy(io.Discard, c)
		if err != nil {
			return 0, err
		}
		return size, s.renew(ctx, digest, limits.Keep)
	case !errors.Is(err, ledger.ErrNotFound):
		return 0, err
	}

	id, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	size, err := s.fill(ctx, id, c, limits.Quota)
	if err == nil {
		err = s.complete(ctx, id, digest, limits.Keep)
	}
	if err == nil {
		return size, nil
	}
	// What this call wrote must go, also when its client has gone.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	defer cancel()
	gone := s.work.run(clean, func(c *pgx.Conn) error {
		_, err := c.Exec(clean, `DELETE FROM staged WHERE id = $1`, id)
		return err
	})
	if violated(err) == "staged_digest_key" { // another upload of the same was faster
		err = s.renew(ctx, digest, limits.Keep)
	}
	return size, errors.Join(err, gone)
}

// checked reads at most limit bytes and ends in io.EOF only if they are the
// content that was promised.
type checked struct {
	r           io.Reader
	read, limit int64
	hash        hash.Hash
	want        statement.Digest
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if c.read += int64(n); c.read > c.limit {
		return 0, fmt.Errorf("%w: more than %d bytes", ledger.ErrTooLarge, c.limit)
	}
	if err != io.EOF {
		return n, err
	}
	if sum := c.hash.Sum(nil); subtle.ConstantTimeCompare(sum, c.want.Bytes()) != 1 {
		return 0, fmt.Errorf("%w: got %s:%x, want %s", ledger.ErrDigest, c.want.Algorithm(), sum, c.want)
	}
	return n, err
}

func (s *Store) begin(ctx context.Context) (id int64, err error) {
	err = s.work.run(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `INSERT INTO staged (size, claimed, expires_at)
			VALUES (0, false, now() + $1) RETURNING id`, silence).Scan(&id)
	})
	return id, err
}

// fill writes r chunk by chunk. Only io.EOF itself ends r well: checked has then
// seen all of it, while io.ErrUnexpectedEOF is how a request breaks off.
func (s *Store) fill(ctx context.Context, id int64, r io.Reader, quota int64) (size int64, err error) {
	chunk, full := make([]byte, chunkSize), 0
	for n := 0; ; {
		got, err := r.Read(chunk[full:])
		full += got
		if err != nil && err != io.EOF {
			return 0, err
		}
		if full == chunkSize || err == io.EOF && full > 0 {
			if err := s.put(ctx, id, n, chunk[:full], quota); err != nil {
				return 0, err
			}
			size += int64(full)
			full, n = 0, n+1
		}
		if err == io.EOF {
			return size, nil
		}
	}
}

func (s *Store) put(ctx context.Context, id int64, n int, chunk []byte, quota int64) error {
	size := int64(len(chunk))
	return s.work.run(ctx, func(c *pgx.Conn) error {
		// By itself: under SERIALIZABLE, whoever has read all sizes and writes
		// one stands in the way of everybody else who does.
		var used int64
		if err := c.QueryRow(ctx, `SELECT coalesce(sum(size), 0)::bigint FROM staged`).Scan(&used); err != nil {
			return err
		}
		if used+size > quota {
			return fmt.Errorf("%w: no room for %d bytes more, %d are allowed", ledger.ErrQuota, size, quota)
		}
		done, err := c.Exec(ctx, `
			WITH piece AS (UPDATE staged SET size = size + $3, expires_at = now() + $4 WHERE id = $1 RETURNING id)
			INSERT INTO staged_chunks (staged_id, position, data) SELECT id, $2, $5 FROM piece`,
			id, n, size, silence, chunk)
		if err == nil && done.RowsAffected() == 0 {
			err = fmt.Errorf("%w: it was swept in the same moment", ledger.ErrUnavailable)
		}
		return err
	})
}

// complete makes a piece visible.
func (s *Store) complete(ctx context.Context, id int64, digest statement.Digest, keep time.Duration) error {
	return s.update(ctx, `UPDATE staged SET digest = $2, expires_at = now() + $3 WHERE id = $1`, id, digest.Bytes(), keep)
}

// renew begins a new stay of a piece that is there.
func (s *Store) renew(ctx context.Context, digest statement.Digest, keep time.Duration) error {
	return s.update(ctx, `UPDATE staged SET claimed = false, expires_at = greatest(expires_at, now() + $2)
		WHERE digest = $1`, digest.Bytes(), keep)
}

func (s *Store) update(ctx context.Context, sql string, args ...any) error {
	return s.work.run(ctx, func(c *pgx.Conn) error {
		done, err := c.Exec(ctx, sql, args...)
		if err == nil && done.RowsAffected() == 0 {
			err = fmt.Errorf("%w: it was swept in the same moment", ledger.ErrUnavailable)
		}
		return err
	})
}

// piece finds complete content.
func (s *Store) piece(ctx context.Context, digest statement.Digest) (id, size int64, err error) {
	err = s.reads.read(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT id, size FROM staged WHERE digest = $1`, notNil(digest.Bytes())).Scan(&id, &size)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, ledger.ErrNotFound
	}
	return id, size, err
}

// Staged opens staged content. The reader asks for one chunk at a time and so
// holds no connection between reads.
func (s *Store) Staged(ctx context.Context, digest statement.Digest) (io.ReadCloser, int64, error) {
	id, size, err := s.piece(ctx, digest)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, 0, err
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open staged %s: %w", digest, err)
	}
	return &chunks{s: s, ctx: ctx, id: id, left: size}, size, nil
}

// chunks reads one piece. ctx is that of the call which opened it.
type chunks struct {
	s    *Store
	ctx  context.Context
	id   int64
	next int
	have []byte
	left int64 // beyond have
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.have) == 0 {
		if c.left == 0 {
			return 0, io.EOF
		}
		err := c.s.reads.read(c.ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(c.ctx, `SELECT data FROM staged_chunks WHERE staged_id = $1 AND position = $2`, c.id, c.next).Scan(&c.have)
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, fmt.Errorf("read staged content: %w: it was swept while being read", ledger.ErrNotFound)
		}
		if err != nil {
			return 0, fmt.Errorf("read staged content: %w", err)
		}
		c.next++
		c.left -= int64(len(c.have))
	}
	n := copy(p, c.have)
	c.have = c.have[n:]
	return n, nil
}

func (c *chunks) Close() error {
	c.have, c.left = nil, 0
	return nil
}

// unneeded is the condition of a piece s that may go at time $1.
const unneeded = `(s.claimed OR s.expires_at <= $1)
	AND NOT EXISTS (
		SELECT FROM entries e JOIN deliveries d USING (index)
		WHERE e.evidence = s.digest AND d.artifact = 'evidence' AND d.state = 'queued')`

// Sweep removes one piece per transaction, so that none is long. A Commit may
// claim a piece in the very moment it is removed: under SERIALIZABLE the
// removal then fails, and what is looked at again is a piece that stays.
func (s *Store) Sweep(ctx context.Context, now time.Time) error {
	ids, err := collect(ctx, s.work, pgx.RowTo[int64], `SELECT id FROM staged s WHERE `+unneeded, now)
	if err != nil {
		return fmt.Errorf("sweep staged evidence: %w", err)
	}
	for _, id := range ids {
		err := s.work.run(ctx, func(c *pgx.Conn) error {
			return pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `DELETE FROM staged s WHERE id = $2 AND `+unneeded, now, id)
				return err
			})
		})
		if err != nil && !hasState(err, serializationFailure) {
			return fmt.Errorf("sweep staged evidence: %w", err)
		}
	}
	return nil
}
