package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// statBlob returns the size of a blob of the repository.
func (r *Registry) statBlob(ctx context.Context, repository string, d digest) (size int64, err error) {
	err = r.read.QueryRowContext(ctx, `
		SELECT b.size FROM repositories r JOIN links l ON l.repository = r.id JOIN blobs b ON b.digest = l.digest
		WHERE r.name = ? AND l.digest = ?`, repository, string(d)).Scan(&size)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, blobUnknown(repository, d)
	}
	if err != nil {
		return 0, fmt.Errorf("look up blob %s: %w", d, err)
	}
	return size, nil
}

// wholeBlob is statBlob for who may have the bytes at hand: a blob whose file is
// gone or cut, or was found to have other bytes, is unknown to it. Pushed again, it
// is whole again, for a push always leaves the file that it brought.
func (r *Registry) wholeBlob(ctx context.Context, repository string, d digest) (int64, error) {
	size, err := r.statBlob(ctx, repository, d)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(filepath.Join(r.dir, d.path()))
	_, spoilt := r.spoilt.Load(d)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("look up blob %s: %w", d, err)
	case err != nil || info.Size() != size || spoilt:
		r.log.Load().Error("blob damaged: push it again", "repository", repository, "blob", d)
		return 0, blobUnknown(repository, d)
	}
	return size, nil
}

func blobUnknown(repository string, d digest) error {
	return refuse(404, "BLOB_UNKNOWN", "repository %s has no blob %s", repository, d)
}

// openBlob opens a blob of the repository for reading.
func (r *Registry) openBlob(ctx context.Context, repository string, d digest) (*os.File, int64, error) {
	for attempt := 1; ; attempt++ {
		size, err := r.statBlob(ctx, repository, d)
		if err != nil {
			return nil, 0, err
		}
		f, err := os.Open(filepath.Join(r.dir, d.path()))
		if err == nil {
			return f, size, nil
		}
		// It was deleted between the row and here, and perhaps pushed again; or
		// the folder was tampered with.
		if attempt == 3 {
			return nil, 0, fmt.Errorf("open blob %s: %w", d, err)
		}
	}
}

// putBlob stores body as blob d of the repository in one go.
func (r *Registry) putBlob(ctx context.Context, repository string, d digest, body io.Reader) error {
	path := filepath.Join(r.dir, "uploads", newID())
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	h := d.hash()
	size, err := r.receive(f, h, body)
	if err == nil {
		err = checkDigest(d, d.with(h))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return r.place(ctx, repository, d, path, size, "")
}

func checkDigest(want, got digest) error {
	if got != want {
		return refuse(400, "DIGEST_INVALID", "the content has digest %s, not %s", got, want)
	}
	return nil
}

// place makes the synced file at path the blob d of the repository, and ends
// upload (if not empty). Durable on nil.
func (r *Registry) place(ctx context.Context, repository string, d digest, path string, size int64, upload string) error {
	r.files.RLock()
	defer r.files.RUnlock()
	target := filepath.Join(r.dir, d.path())
	// An upload's file has two names until its row is gone, so that it goes on
	// after a crash in between. Where there can be no second name, or one from
	// such a crash is in the way, it is just moved.
	if upload == "" || os.Link(path, target) != nil {
		if err := os.Rename(path, target); err != nil {
			return fmt.Errorf("store blob %s: %w", d, err)
		}
	}
	if err := syncFolder(filepath.Dir(target)); err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	r.spoilt.Delete(d)
	// Its sender may have gone by now; what it finds when it tries again is
	// rather the blob than nothing.
	err := r.commit(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		if _, err := tx.Exec("INSERT INTO blobs (digest, size) VALUES (?, ?) ON CONFLICT DO NOTHING", string(d), size); err != nil {
			return err
		}
		if _, err := tx.Exec("DELETE FROM uploads WHERE id = ?", upload); err != nil {
			return err
		}
		return r.link(tx, repository, d)
	})
	if err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	if upload != "" {
		// What stays is without a row, and swept.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.log.Load().Warn("finished upload not removed", "error", err)
		}
	}
	return nil
}

// link makes a known blob visible in the repository; linking again makes it
// young again.
func (r *Registry) link(tx *sql.Tx, repository string, d digest) error {
	id, err := repositoryID(tx, repository)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`
		INSERT INTO links (repository, digest, linked_at) VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET linked_at = excluded.linked_at`, id, string(d), r.now().Unix())
	return err
}

// mountBlob makes a blob of repository from visible in another one; false: from
// has no such blob.
func (r *Registry) mountBlob(ctx context.Context, repository string, d digest, from string) (bool, error) {
	var found bool
	err := r.commit(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow(`
			SELECT EXISTS (SELECT 1 FROM repositories r JOIN links l ON l.repository = r.id
			               WHERE r.name = ? AND l.digest = ?)`, from, string(d)).Scan(&found)
		if err != nil || !found {
			return err
		}
		return r.link(tx, repository, d)
	})
	if err != nil {
		return false, fmt.Errorf("mount blob %s: %w", d, err)
	}
	return found, nil
}

// deleteBlob takes a blob out of the repository, also if a manifest names it:
// that is how evidence is purged. The file goes with the last repository that
// had it.
func (r *Registry) deleteBlob(ctx context.Context, repository string, d digest) error {
	err := r.removeFiles(ctx, func(tx *sql.Tx) error {
		result, err := tx.Exec(`
			DELETE FROM links WHERE digest = ? AND repository = (SELECT id FROM repositories WHERE name = ?)`, string(d), repository)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, blobUnknown(repository, d))
		}
		return nil
	}, []digest{d})
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	return err
}

// removeFiles applies unlink, forgets those of the blobs that no repository has
// then, and removes their files. A crash in between
// leaves files without a row, which the next sweep finds.
func (r *Registry) removeFiles(ctx context.Context, unlink func(*sql.Tx) error, blobs []digest) error {
	r.files.Lock()
	defer r.files.Unlock()
	var gone []digest
	err := r.commit(ctx, func(tx *sql.Tx) error {
		if err := unlink(tx); err != nil {
			return err
		}
		for _, d := range blobs {
			done, err := tx.Exec("DELETE FROM blobs WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM links WHERE links.digest = blobs.digest)", string(d))
			if err != nil {
				return err
			}
			if n, err := done.RowsAffected(); err != nil || n == 0 {
				if err != nil {
					return err
				}
				continue
			}
			gone = append(gone, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range gone {
		if err := os.Remove(filepath.Join(r.dir, d.path())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
