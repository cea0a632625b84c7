package embedded

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
)

// chunk is a piece of a blob as a request brings it.
type chunk struct {
	body io.Reader
	at   int64 // where the sender says it belongs; -1: at the end
	size int64 // what the sender says it has; -1: unsaid
}

// outOfOrder refuses a chunk that does not start where the upload ends.
type outOfOrder struct {
	refusal  *Error
	received int64
}

func (e *outOfOrder) Error() string { return e.refusal.Error() }
func (e *outOfOrder) Unwrap() error { return e.refusal }

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// session names an upload and who works on it.
type session struct {
	repository, id string
	caller         string // "": nobody known
}

// errCrowded: as many uploads are open as may be.
var errCrowded = errors.New("too many uploads are open")

// startUpload opens an upload, which only caller may continue.
func (r *Registry) startUpload(ctx context.Context, repository, caller string) (session, error) {
	s := session{repository, newID(), caller}
	err := r.insertUpload(ctx, s)
	if errors.Is(err, errCrowded) {
		if err := r.forgetUploads(ctx, `
			SELECT id, touched_at FROM uploads WHERE touched_at < ?1 AND (repository = ?2 OR (SELECT uploads FROM usage) >= ?3)
			ORDER BY touched_at LIMIT 16`, r.now().Add(-idle).Unix(), repository, r.limits.Uploads); err != nil {
			return s, fmt.Errorf("start upload: %w", err)
		}
		err = r.insertUpload(ctx, s)
	}
	if errors.Is(err, errCrowded) {
		return s, busy("%v, in repository %s or in all: finish or cancel some", err, repository)
	}
	if err != nil {
		return s, fmt.Errorf("start upload: %w", err)
	}
	return s, nil
}

func (r *Registry) insertUpload(ctx context.Context, s session) error {
	state, err := sha256.New().(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	return r.commitLazily(ctx, func(tx *sql.Tx) error {
		var all, here int
		err := tx.QueryRow(`
			SELECT uploads, (SELECT COUNT(*) FROM (SELECT 1 FROM uploads WHERE repository = ? LIMIT ?)) FROM usage`,
			s.repository, r.limits.RepositoryUploads).Scan(&all, &here)
		if err != nil {
			return err
		}
		if all >= r.limits.Uploads || here >= r.limits.RepositoryUploads {
			return errCrowded
		}
		now := r.now().Unix()
		_, err = tx.Exec(`
			INSERT INTO uploads (id, repository, caller, received, hash, started_at, touched_at)
			VALUES (?1, ?2, ?3, 0, ?4, ?5, ?5)`, s.id, s.repository, s.caller, state, now)
		return err
	})
}

// uploadStatus returns how many bytes the upload has. As with every read, who
// shows no credentials is told, but nobody who shows another's.
func (r *Registry) uploadStatus(ctx context.Context, s session) (received int64, err error) {
	received, _, owner, err := r.lookUpUpload(ctx, s)
	if err == nil && owner != s.caller && s.caller != "" {
		err = uploadUnknown(s)
	}
	return received, err
}

// upload reads where an upload stands for whom it belongs to. An upload of
// another repository or caller is as unknown as any.
func (r *Registry) upload(ctx context.Context, s session) (received int64, state []byte, err error) {
	received, state, owner, err := r.lookUpUpload(ctx, s)
	if err == nil && owner != s.caller {
		err = uploadUnknown(s)
	}
	return received, state, err
}

func (r *Registry) lookUpUpload(ctx context.Context, s session) (received int64, state []byte, owner string, err error) {
	now := r.now()
	err = r.read.QueryRowContext(ctx, `
		SELECT received, hash, caller FROM uploads WHERE id = ? AND repository = ? AND touched_at > ? AND started_at > ?`,
		s.id, s.repository, now.Add(-expiry).Unix(), now.Add(-lifetime).Unix()).Scan(&received, &state, &owner)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil, "", uploadUnknown(s)
	}
	if err != nil {
		return 0, nil, "", fmt.Errorf("look up upload: %w", err)
	}
	return received, state, owner, nil
}

func uploadUnknown(s session) error {
	return refuse(404, "BLOB_UPLOAD_UNKNOWN", "repository %s has no upload %q; start a new one", s.repository, clip(s.id))
}

// appendUpload adds a chunk and returns how many bytes there are now.
func (r *Registry) appendUpload(ctx context.Context, s session, c chunk) (received int64, err error) {
	if err := r.sessions.lock(ctx, s.id); err != nil {
		return 0, err
	}
	defer r.sessions.unlock(s.id)
	e, err := r.extend(ctx, s, c)
	if err != nil {
		return 0, err
	}
	if err := e.end(r.vouch(ctx, s, e)); err != nil {
		return 0, fmt.Errorf("store chunk: %w", err)
	}
	return e.size, nil
}

// vouch makes an extension part of its upload. The file before the row:
// whatever offset the row shows is on disk.
func (r *Registry) vouch(ctx context.Context, s session, e *extension) error {
	if err := e.file.Sync(); err != nil {
		return err
	}
	state, err := e.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	return r.commitLazily(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE uploads SET received = ?, hash = ?, touched_at = ? WHERE id = ?",
			e.size, state, r.now().Unix(), s.id)
		return err
	})
}

// finishUpload adds a last, perhaps empty chunk and makes the whole the blob d.
// If the digest is another one, the upload stays as it was before the chunk.
func (r *Registry) finishUpload(ctx context.Context, s session, d digest, c chunk) error {
	if err := r.sessions.lock(ctx, s.id); err != nil {
		return err
	}
	defer r.sessions.unlock(s.id)
	e, err := r.extend(ctx, s, c)
	if err != nil {
		return err
	}
	if d.algorithm() != "sha256" {
		e.hash = d.hash()
		_, err = io.Copy(e.hash, io.NewSectionReader(e.file, 0, e.size))
	}
	if err == nil {
		err = checkDigest(d, d.with(e.hash))
	}
	if err == nil {
		err = e.file.Sync()
	}
	if err := e.end(err); err != nil {
		return err
	}
	return r.place(ctx, s.repository, d, r.uploadPath(s.id), e.size, s.id)
}

// extension is an upload's file with a chunk behind what the row vouches for.
type extension struct {
	file *os.File
	hash hash.Hash // of the whole
	from int64     // where the row says the upload ends
	size int64     // with the chunk
}

// end closes the file, after an error without the chunk: nobody pays with disk
// for bytes that no row counts.
func (e *extension) end(err error) error {
	if err != nil {
		err = errors.Join(err, e.file.Truncate(e.from))
	}
	return errors.Join(err, e.file.Close())
}

// extend writes a chunk behind what the upload's row vouches for. It leaves the
// row alone, so a chunk that breaks off has not happened.
func (r *Registry) extend(ctx context.Context, s session, c chunk) (*extension, error) {
	received, state, err := r.upload(ctx, s)
	if err != nil {
		return nil, err
	}
	// SPEC distribution-spec 1.1, "Pushing a blob in chunks": chunks MUST be
	// uploaded in order; otherwise the registry MUST answer 416.
	if c.at >= 0 && c.at != received {
		return nil, &outOfOrder{
			refusal:  refuse(416, "BLOB_UPLOAD_INVALID", "the chunk starts at byte %d, the upload ends at %d", c.at, received),
			received: received,
		}
	}
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		return nil, fmt.Errorf("resume upload: %w", err)
	}
	f, err := r.openUpload(s, received)
	if err != nil {
		return nil, err
	}
	n, err := r.receive(f, h, c.body)
	if err == nil && c.size >= 0 && n != c.size {
		err = refuse(400, "SIZE_INVALID", "%d bytes were announced and %d came", c.size, n)
	}
	e := &extension{file: f, hash: h, from: received, size: received + n}
	if err != nil {
		return nil, e.end(err)
	}
	return e, nil
}

// openUpload opens an upload's file where the row says it ends. A crash may have
// left more, which goes.
func (r *Registry) openUpload(s session, received int64) (*os.File, error) {
	f, err := os.OpenFile(r.uploadPath(s.id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("resume upload: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() < received {
		// It became a blob, and the crash came before its row.
		err = uploadUnknown(s)
	}
	if err == nil {
		err = f.Truncate(received)
	}
	if err == nil {
		_, err = f.Seek(received, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// cancelUpload ends an upload.
func (r *Registry) cancelUpload(ctx context.Context, s session) error {
	if err := r.sessions.lock(ctx, s.id); err != nil {
		return err
	}
	defer r.sessions.unlock(s.id)
	if _, _, err := r.upload(ctx, s); err != nil {
		return err
	}
	return r.forgetUpload(ctx, s.id, math.MaxInt64)
}

// forgetUploads ends the uploads whose ids and touched_at query selects, except
// those that somebody works on or has touched since.
func (r *Registry) forgetUploads(ctx context.Context, query string, args ...any) error {
	rows, err := r.read.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	defer rows.Close()
	touched := map[string]int64{}
	for rows.Next() {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return fmt.Errorf("list uploads: %w", err)
		}
		touched[id] = at
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	var errs []error
	for id, at := range touched {
		if r.sessions.try(id) == nil {
			errs = append(errs, r.forgetUpload(ctx, id, at))
			r.sessions.unlock(id)
		}
	}
	return errors.Join(errs...)
}

// forgetUpload removes row, then file, unless the upload was touched after the
// given time. The caller holds its lock.
func (r *Registry) forgetUpload(ctx context.Context, id string, touched int64) error {
	var gone int64
	err := r.commitLazily(ctx, func(tx *sql.Tx) error {
		result, err := tx.Exec("DELETE FROM uploads WHERE id = ? AND touched_at <= ?", id, touched)
		if err != nil {
			return err
		}
		gone, err = result.RowsAffected()
		return err
	})
	if err != nil {
		return fmt.Errorf("end upload: %w", err)
	}
	if gone == 0 {
		return nil
	}
	if err := os.Remove(r.uploadPath(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end upload: %w", err)
	}
	return nil
}

// uploadPath is used only with ids that a row or newID vouches for.
func (r *Registry) uploadPath(id string) string {
	return filepath.Join(r.dir, "uploads", id)
}

// lookEvery is after how many bytes free space is looked at again.
const lookEvery = 4 << 20

// receive copies body to f and h.
func (r *Registry) receive(f io.Writer, h hash.Hash, body io.Reader) (n int64, err error) {
	buf := make([]byte, 128<<10)
	for looked := int64(-lookEvery); ; {
		if n-looked >= lookEvery {
			if err := r.roomOnDisk(); err != nil {
				return n, err
			}
			looked = n
		}
		k, err := body.Read(buf)
		if k > 0 {
			h.Write(buf[:k])
			if _, err := f.Write(buf[:k]); err != nil {
				return n, fmt.Errorf("store blob: %w", err)
			}
			n += int64(k)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read blob: %w", err)
		}
	}
}
