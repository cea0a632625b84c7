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
	return errors.Join(r.sweepLinks(ctx, cut), r.sweepBlobs(ctx), r.sweepUploads(ctx, cut), r.sweepFiles(ctx, "uploads", cut), r.sweepFiles(ctx, "blobs", cut))
}

// sweepPage bounds what one transaction of a sweep removes, for which every push
// waits.
const sweepPage = 256

// sweepLinks removes blobs that no manifest of their repository names, page by
// page: it is looked without keeping anybody out, and once more before one goes.
func (r *Registry) sweepLinks(ctx context.Context, cut time.Time) error {
	const unnamed = `linked_at < ? AND NOT EXISTS (
		SELECT 1 FROM named WHERE named.repository = links.repository AND named.digest = links.digest)`
	type link struct {
		repository int64
		digest     digest
	}
	for last := (link{}); ; {
		var page []link
		var digests []digest
		err := r.each(ctx, func(scan func(...any) error) error {
			var l link
			err := scan(&l.repository, (*string)(&l.digest))
			page, digests = append(page, l), append(digests, l.digest)
			return err
		}, `SELECT repository, digest FROM links WHERE (repository, digest) > (?, ?) AND `+unnamed+`
			ORDER BY repository, digest LIMIT ?`, last.repository, string(last.digest), cut.Unix(), sweepPage)
		if err != nil || len(page) == 0 {
			return err
		}
		err = r.removeFiles(ctx, func(tx *sql.Tx) error {
			for _, l := range page {
				if _, err := tx.Exec(`DELETE FROM links WHERE repository = ? AND digest = ? AND `+unnamed, l.repository, string(l.digest), cut.Unix()); err != nil {
					return err
				}
			}
			return nil
		}, digests)
		if err != nil {
			return err
		}
		last = page[len(page)-1]
	}
}

// sweepBlobs removes blobs that no repository has.
func (r *Registry) sweepBlobs(ctx context.Context) error {
	for last := ""; ; {
		var page []digest
		err := r.each(ctx, func(scan func(...any) error) error {
			var d digest
			err := scan((*string)(&d))
			page = append(page, d)
			return err
		}, `SELECT digest FROM blobs WHERE digest > ? AND NOT EXISTS (SELECT 1 FROM links WHERE links.digest = blobs.digest)
			ORDER BY digest LIMIT ?`, last, sweepPage)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := r.removeFiles(ctx, func(*sql.Tx) error { return nil }, page); err != nil {
			return err
		}
		last = string(page[len(page)-1])
	}
}

// each scans every row of a query.
func (r *Registry) each(ctx context.Context, scan func(func(...any) error) error, query string, args ...any) error {
	rows, err := r.read.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
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
