package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// sweeper collects garbage until the registry closes. What it fails to remove
// now it finds again the next time.
func (r *Registry) sweeper(ctx context.Context) {
	defer r.running.Done()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
				r.log.Load().Warn("registry garbage not all collected", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// sweep removes blobs older than a day that no manifest of their repository
// names, files that have no row, and uploads that nobody touched for a day or
// that go on for a week. It never removes a manifest.
func (r *Registry) sweep(ctx context.Context) error {
	cut := r.now().Add(-expiry)
	err := r.removeFiles(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`
			DELETE FROM links WHERE linked_at < ? AND NOT EXISTS (
				SELECT 1 FROM named WHERE named.repository = links.repository AND named.digest = links.digest)`, cut.Unix())
		return err
	})
	return errors.Join(err, r.sweepUploads(ctx, cut), r.sweepFiles(ctx, "uploads", cut), r.sweepFiles(ctx, "blobs", cut))
}

func (r *Registry) sweepUploads(ctx context.Context, cut time.Time) error {
	return r.forgetUploads(ctx, "SELECT id, touched_at FROM uploads WHERE touched_at < ? OR started_at < ?",
		cut.Unix(), r.now().Add(-lifetime).Unix())
}

// sweepFiles removes the files below folder that are older than cut and have no
// row: what a crash left between two steps.
func (r *Registry) sweepFiles(ctx context.Context, folder string, cut time.Time) error {
	return filepath.WalkDir(filepath.Join(r.dir, folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().After(cut) {
			return nil
		}
		if err != nil {
			return err
		}
		if known, err := r.hasRow(ctx, path); err != nil || known {
			return err
		}
		// Most files are known; only for the others every push has to wait.
		r.files.Lock()
		defer r.files.Unlock()
		if known, err := r.hasRow(ctx, path); err != nil || known {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (r *Registry) hasRow(ctx context.Context, path string) (known bool, err error) {
	name, parent := filepath.Base(path), filepath.Dir(path)
	algorithm := filepath.Base(filepath.Dir(parent))
	err = r.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?) OR EXISTS (SELECT 1 FROM uploads WHERE id = ?)",
		algorithm+":"+name, name).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("look up %s: %w", name, err)
	}
	return known, nil
}
