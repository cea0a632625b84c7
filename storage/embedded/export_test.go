package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// OpenAt is Open with the tests' clock.
func OpenAt(dir string, now func() time.Time) (*Registry, error) { return open(dir, now) }

// LosePatience sets how long a body may stand still. Before the first request.
func (r *Registry) LosePatience(after time.Duration) { r.patience = after }

// FillDisk leaves so many bytes free. Before the first request.
func (r *Registry) FillDisk(free int64) {
	r.free = func(string) (int64, error) { return free, nil }
}

// Sweep collects garbage now.
func (r *Registry) Sweep(ctx context.Context) error { return r.sweep(ctx) }

// SweepPage bounds what one transaction of a sweep removes.
const SweepPage = sweepPage

// PageRows bounds a page of referrers.
const PageRows = pageRows

// ReferrersPlans are how the database says that it finds a page of referrers.
func (r *Registry) ReferrersPlans() (plans []string, err error) {
	for _, query := range []string{subjectQuery, typeQuery, taggedQuery} {
		rows, err := r.read.Query("EXPLAIN QUERY PLAN "+query, 1, "x", "y", "z")
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				return nil, err
			}
			plans = append(plans, detail)
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

// AddReferrers adds so many manifests of 1 kB that refer to subject, past
// everything that costs time.
func (r *Registry) AddReferrers(ctx context.Context, repository, subject, artifactType string, count int) error {
	return r.commit(ctx, func(tx *sql.Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
			INSERT INTO manifests (repository, digest, media_type, subject, artifact_type, annotations, body)
			SELECT ?2, 'sha256:' || lower(hex(randomblob(32))), ?3, ?4, ?5,
				json_object('io.github.scittd.entry', lower(hex(randomblob(32))), 'n', CAST(i AS TEXT)), zeroblob(1000) FROM n`,
			count, id, ociManifest, subject, artifactType)
		return err
	})
}

// MakeVersion1 makes the database that a first version left, with one blob,
// manifest and upload in it.
func MakeVersion1(dir string, blob, manifest []byte, upload string) (err error) {
	if err := makeFolders(dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, digestOf(blob, "sha256:").path()), blob, 0o600); err != nil {
		return err
	}
	db, err := openDatabase(filepath.Join(dir, "registry.db"), "_txlock=immediate")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	d, m := digestOf(blob, "sha256:"), digestOf(manifest, "sha256:")
	_, err = db.Exec(migrations[0] + fmt.Sprintf(`
		INSERT INTO repositories VALUES (1, 'r');
		INSERT INTO blobs VALUES ('%[1]s', %[2]d);
		INSERT INTO links VALUES (1, '%[1]s', 1);
		INSERT INTO manifests VALUES (1, '%[3]s', '%[4]s', NULL, '', 'null', CAST('%[5]s' AS BLOB));
		INSERT INTO uploads VALUES ('%[6]s', 'r', 7, x'00', %[7]d);
		PRAGMA user_version = 1;`, d, len(blob), m, ociManifest, manifest, upload, time.Now().Unix()))
	return err
}
