package sqlite

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"database/sql"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/statement"
)

// chunkSize is how much of an upload is in memory, and in one transaction, at a
// time: the writer is shared with Commit.
const chunkSize = 256 << 10

// Stage stores r chunk by chunk; only the last transaction gives it its name.
// What is there already gets a new time once r has been read and was the same:
// only who has the content may keep it.
func (s *Store) Stage(ctx context.Context, digest statement.Digest, r io.Reader, limits ledger.StagingLimits) (int64, error) {
	sum, err := hashFor(digest)
	if err != nil {
		return 0, err
	}
	now, err := s.Now(ctx)
	if err != nil {
		return 0, err
	}
	there, err := s.there(ctx, digest)
	if err != nil {
		return 0, err
	}
	up := upload{store: s, limits: limits, expires: now.Add(limits.Keep)}
	n, err := consume(r, sum, limits.MaxSize, func(chunk []byte) error {
		if there {
			return nil
		}
		return up.add(ctx, chunk)
	})
	if err == nil && string(digest) != digest.Algorithm()+":"+fmt.Sprintf("%x", sum.Sum(nil)) {
		err = fmt.Errorf("%w: got %s:%x, want %s", ledger.ErrDigest, digest.Algorithm(), sum.Sum(nil), digest)
	}
	switch {
	case err != nil:
	case there:
		err = s.renew(ctx, digest, up.expires)
	default:
		err = up.finish(ctx, digest)
	}
	if err != nil {
		return 0, errors.Join(err, up.drop())
	}
	return n, nil
}

// consume reads r to its end through sum, giving it to add in pieces.
func consume(r io.Reader, sum hash.Hash, limit int64, add func([]byte) error) (int64, error) {
	buf := make([]byte, chunkSize)
	var n int64
	for {
		k, err := fill(r, buf)
		if n += int64(k); n > limit {
			return n, fmt.Errorf("%w: more than %d bytes", ledger.ErrTooLarge, limit)
		}
		sum.Write(buf[:k])
		if k > 0 {
			if err := add(buf[:k]); err != nil {
				return n, err
			}
		}
		switch err {
		case nil:
		case io.EOF:
			return n, nil
		default:
			return n, fmt.Errorf("read the content: %w", err)
		}
	}
}

// fill is io.ReadFull that tells the end of r, io.EOF, from an r that broke off
// with io.ErrUnexpectedEOF of its own.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

func hashFor(d statement.Digest) (hash.Hash, error) {
	switch d.Algorithm() {
	case "sha256":
		return sha256.New(), nil
	case "sha384":
		return sha512.New384(), nil
	case "sha512":
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("%w: no such digest algorithm: %q", ledger.ErrDigest, d)
}

func (s *Store) there(ctx context.Context, digest statement.Digest) (bool, error) {
	var there bool
	err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM staged WHERE digest = ?)`, string(digest)).Scan(&there)
	return there, classify(err)
}

// renew gives content that is there a new, unclaimed stay.
func (s *Store) renew(ctx context.Context, digest statement.Digest, expires time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		renewed, err := extendStay(ctx, tx, digest, expires)
		if err == nil && !renewed {
			err = fmt.Errorf("%w: it was swept in the same moment", ledger.ErrUnavailable)
		}
		return err
	})
}

func extendStay(ctx context.Context, tx *sql.Tx, digest statement.Digest, expires time.Time) (there bool, err error) {
	r, err := tx.ExecContext(ctx, `UPDATE staged SET expires_at = max(expires_at, ?), claimed = 0 WHERE digest = ?`,
		millis(expires), string(digest))
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}

// upload is a row without a digest and its chunks, until finish.
type upload struct {
	store    *Store
	limits   ledger.StagingLimits
	expires  time.Time
	id       int64 // 0: no row yet
	position int
}

func (u *upload) add(ctx context.Context, chunk []byte) error {
	return u.store.update(ctx, func(tx *sql.Tx) error {
		if err := u.begin(ctx, tx); err != nil {
			return err
		}
		var all int64
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(size), 0) FROM staged`).Scan(&all); err != nil {
			return err
		}
		if all+int64(len(chunk)) > u.limits.Quota {
			return fmt.Errorf("%w: %d bytes are staged, %d are allowed", ledger.ErrQuota, all, u.limits.Quota)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE staged SET size = size + ? WHERE id = ?`, len(chunk), u.id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO staged_chunks (staged_id, position, data) VALUES (?, ?, ?)`, u.id, u.position, chunk)
		if err == nil {
			u.position++
		}
		return err
	})
}

func (u *upload) begin(ctx context.Context, tx *sql.Tx) error {
	if u.id != 0 {
		return nil
	}
	return tx.QueryRowContext(ctx, `INSERT INTO staged (size, expires_at) VALUES (0, ?) RETURNING id`, millis(u.expires)).Scan(&u.id)
}

// finish names the upload. Who was faster with the same content keeps the name.
func (u *upload) finish(ctx context.Context, digest statement.Digest) error {
	return u.store.update(ctx, func(tx *sql.Tx) error {
		if err := u.begin(ctx, tx); err != nil { // empty content has no chunk
			return err
		}
		there, err := extendStay(ctx, tx, digest, u.expires)
		switch {
		case err != nil:
		case there:
			_, err = tx.ExecContext(ctx, `DELETE FROM staged WHERE id = ?`, u.id)
		default:
			_, err = tx.ExecContext(ctx, `UPDATE staged SET digest = ? WHERE id = ?`, string(digest), u.id)
		}
		return err
	})
}

// drop removes a failed upload, also when its caller has gone. What it cannot
// remove Sweep does later.
func (u *upload) drop() error {
	if u.id == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return u.store.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM staged WHERE id = ? AND digest IS NULL`, u.id)
		return err
	})
}

// Staged opens staged content.
func (s *Store) Staged(ctx context.Context, digest statement.Digest) (io.ReadCloser, int64, error) {
	c := &content{ctx: ctx, store: s}
	err := s.read.QueryRowContext(ctx, `SELECT id, size FROM staged WHERE digest = ?`, string(digest)).Scan(&c.id, &c.left)
	if err != nil {
		return nil, 0, classify(err)
	}
	return c, c.left, nil
}

// content reads staged content chunk by chunk; no connection is held between.
type content struct {
	ctx      context.Context
	store    *Store
	id       int64
	position int
	chunk    []byte
	left     int64 // not read yet, chunk included
}

func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	if len(c.chunk) == 0 {
		err := c.store.read.QueryRowContext(c.ctx, `SELECT data FROM staged_chunks WHERE staged_id = ? AND position = ?`,
			c.id, c.position).Scan(&c.chunk)
		if errors.Is(err, sql.ErrNoRows) || err == nil && len(c.chunk) == 0 {
			return 0, fmt.Errorf("%w: staged content is gone, %d bytes short", io.ErrUnexpectedEOF, c.left)
		}
		if err != nil {
			return 0, classify(err)
		}
		c.position++
	}
	n := copy(p, c.chunk)
	c.chunk = c.chunk[n:]
	c.left -= int64(n)
	return n, nil
}

func (c *content) Close() error {
	c.left, c.chunk = 0, nil
	return nil
}

// Sweep removes what nobody needs at now.
func (s *Store) Sweep(ctx context.Context, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM staged WHERE (expires_at <= ? OR claimed = 1)
			AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN entries e ON e."index" = d."index"
				WHERE d.state = 'queued' AND d.artifact = 'evidence' AND e.evidence = staged.digest AND e.evidence <> '')`,
			millis(now))
		return err
	})
}
