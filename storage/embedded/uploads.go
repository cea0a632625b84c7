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

// startUpload opens an upload.
func (r *Registry) startUpload(ctx context.Context, repository string) (id string, err error) {
	id = newID()
	state, err := sha256.New().(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return "", fmt.Errorf("start upload: %w", err)
	}
	err = r.commitLazily(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO uploads (id, repository, received, hash, touched_at) VALUES (?, ?, 0, ?, ?)",
			id, repository, state, r.now().Unix())
		return err
	})
	if err != nil {
		return "", fmt.Errorf("start upload: %w", err)
	}
	return id, nil
}

// uploadStatus returns how many bytes the upload has.
func (r *Registry) uploadStatus(ctx context.Context, repository, id string) (received int64, err error) {
	received, _, err = r.upload(ctx, repository, id)
	return received, err
}

// upload reads where an upload stands. An upload of another repository is as
// unknown as any.
func (r *Registry) upload(ctx context.Context, repository, id string) (received int64, state []byte, err error) {
	err = r.read.QueryRowContext(ctx, "SELECT received, hash FROM uploads WHERE id = ? AND repository = ? AND touched_at > ?",
		id, repository, r.now().Add(-expiry).Unix()).Scan(&received, &state)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil, uploadUnknown(repository, id)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("look up upload: %w", err)
	}
	return received, state, nil
}

func uploadUnknown(repository, id string) error {
	return refuse(404, "BLOB_UPLOAD_UNKNOWN", "repository %s has no upload %q; start a new one", repository, clip(id))
}

// appendUpload adds a chunk and returns how many bytes there are now.
func (r *Registry) appendUpload(ctx context.Context, repository, id string, c chunk) (received int64, err error) {
	if err := r.sessions.lock(ctx, id); err != nil {
		return 0, err
	}
	defer r.sessions.unlock(id)
	e, err := r.extend(ctx, repository, id, c)
	if err != nil {
		return 0, err
	}
	if err := e.end(r.vouch(ctx, id, e)); err != nil {
		return 0, fmt.Errorf("store chunk: %w", err)
	}
	return e.size, nil
}

// vouch makes an extension part of its upload. The file before the row:
// whatever offset the row shows is on disk.
func (r *Registry) vouch(ctx context.Context, id string, e *extension) error {
	if err := e.file.Sync(); err != nil {
		return err
	}
	state, err := e.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	return r.commitLazily(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE uploads SET received = ?, hash = ?, touched_at = ? WHERE id = ?",
			e.size, state, r.now().Unix(), id)
		return err
	})
}

// finishUpload adds a last, perhaps empty chunk and makes the whole the blob d.
// If the digest is another one, the upload stays as it was before the chunk.
func (r *Registry) finishUpload(ctx context.Context, repository, id string, d digest, c chunk) error {
	if err := r.sessions.lock(ctx, id); err != nil {
		return err
	}
	defer r.sessions.unlock(id)
	e, err := r.extend(ctx, repository, id, c)
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
	return r.place(ctx, repository, d, r.uploadPath(id), e.size, id)
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
func (r *Registry) extend(ctx context.Context, repository, id string, c chunk) (*extension, error) {
	received, state, err := r.upload(ctx, repository, id)
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
	f, err := r.openUpload(repository, id, received)
	if err != nil {
		return nil, err
	}
	n, err := receive(f, h, c.body)
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
func (r *Registry) openUpload(repository, id string, received int64) (*os.File, error) {
	f, err := os.OpenFile(r.uploadPath(id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("resume upload: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() < received {
		// It became a blob, and the crash came before its row.
		err = uploadUnknown(repository, id)
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
func (r *Registry) cancelUpload(ctx context.Context, repository, id string) error {
	if err := r.sessions.lock(ctx, id); err != nil {
		return err
	}
	defer r.sessions.unlock(id)
	if _, err := r.uploadStatus(ctx, repository, id); err != nil {
		return err
	}
	return r.forgetUpload(ctx, id)
}

// forgetUpload removes row, then file. The caller holds the upload's lock.
func (r *Registry) forgetUpload(ctx context.Context, id string) error {
	err := r.commitLazily(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM uploads WHERE id = ?", id)
		return err
	})
	if err != nil {
		return fmt.Errorf("end upload: %w", err)
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

// receive copies body to f and h. What goes wrong with the body is the
// sender's, the rest is ours.
func receive(f io.Writer, h hash.Hash, body io.Reader) (n int64, err error) {
	buf := make([]byte, 128<<10)
	for {
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
			return n, brokenOff("BLOB_UPLOAD_INVALID", n, err)
		}
	}
}
