package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// MaxManifest is the size of the largest manifest, in bytes.
const MaxManifest = 4 << 20

const (
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// manifest is a stored manifest.
type manifest struct {
	digest    digest
	mediaType string
	subject   digest   // "" without
	lists     []digest // an index just pushed: its manifests
	body      []byte   // as it was pushed, byte for byte
}

func manifestInvalid(format string, args ...any) error {
	return refuse(400, "MANIFEST_INVALID", format, args...)
}

func manifestTooLarge() error {
	return refuse(413, "SIZE_INVALID", "a manifest has at most %d bytes", MaxManifest)
}

// reference is a digest, or else a tag.
type reference struct {
	digest digest
	tag    string
}

// parseReference reads what stands behind manifests/.
func parseReference(s string) (reference, error) {
	if strings.Contains(s, ":") {
		d, err := parseDigest(s)
		return reference{digest: d}, err
	}
	// SPEC distribution-spec 1.1, "Pulling manifests": 404 if the manifest is
	// not found. Under what is no tag there is none.
	if !tagGrammar.MatchString(s) {
		return reference{}, refuse(404, "MANIFEST_UNKNOWN", "%q is neither a tag nor a digest", clip(s))
	}
	return reference{tag: s}, nil
}

func (r reference) String() string { return r.tag + string(r.digest) }

// getManifest returns a manifest with or without its body; size is the body's.
func (r *Registry) getManifest(ctx context.Context, repository string, ref reference, withBody bool) (m manifest, size int64, err error) {
	column := "NULL"
	if withBody {
		column = "m.body"
	}
	query := `SELECT m.digest, m.media_type, length(m.body), ` + column + ` FROM repositories r `
	if ref.tag != "" {
		query += `JOIN tags t ON t.repository = r.id
			JOIN manifests m ON m.repository = r.id AND m.digest = t.manifest WHERE r.name = ? AND t.tag = ?`
	} else {
		query += `JOIN manifests m ON m.repository = r.id WHERE r.name = ? AND m.digest = ?`
	}
	err = r.read.QueryRowContext(ctx, query, repository, ref.String()).Scan((*string)(&m.digest), &m.mediaType, &size, &m.body)
	if errors.Is(err, sql.ErrNoRows) {
		return m, 0, manifestUnknown(repository, ref)
	}
	if err != nil {
		return m, 0, fmt.Errorf("look up manifest %s: %w", ref, err)
	}
	return m, size, nil
}

func manifestUnknown(repository string, ref reference) error {
	return refuse(404, "MANIFEST_UNKNOWN", "repository %s has no manifest %s", repository, ref)
}

// putManifest stores a manifest, its tags and its place among the referrers of
// its subject in one transaction. want is the digest it is to have, "" any
// sha256 one. The subject need not exist.
func (r *Registry) putManifest(ctx context.Context, repository string, want digest, tags []string, mediaType string, body []byte) (manifest, error) {
	c, err := parseManifest(mediaType, body)
	if err != nil {
		return manifest{}, err
	}
	m := manifest{mediaType: mediaType, subject: c.subject, lists: c.manifests, body: body}
	if want == "" {
		m.digest = digestOf(body, "sha256:")
	} else {
		m.digest = digestOf(body, want)
		if err := checkDigest(want, m.digest); err != nil {
			return manifest{}, err
		}
	}
	if err := r.roomOnDisk(); err != nil {
		return manifest{}, err
	}
	blobs, err := json.Marshal(c.blobs)
	if err != nil {
		return manifest{}, fmt.Errorf("store manifest: %w", err)
	}
	err = r.commit(ctx, func(tx *sql.Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		if err := allThere(tx, repository, id, string(blobs)); err != nil {
			return err
		}
		_, err = tx.Exec(`
			INSERT INTO manifests (repository, digest, media_type, subject, artifact_type, annotations, body)
			VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			id, string(m.digest), mediaType, sql.NullString{String: string(c.subject), Valid: c.subject != ""},
			c.artifactType, string(c.annotations), body)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`
			INSERT INTO named (repository, digest, manifest) SELECT ?, value, ? FROM json_each(?) WHERE true
			ON CONFLICT DO NOTHING`, id, string(m.digest), string(blobs))
		for _, tag := range tags {
			if err != nil {
				break
			}
			_, err = tx.Exec(`
				INSERT INTO tags (repository, tag, manifest) VALUES (?, ?, ?)
				ON CONFLICT DO UPDATE SET manifest = excluded.manifest`, id, tag, string(m.digest))
		}
		return err
	})
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) {
		return manifest{}, fmt.Errorf("store manifest %s: %w", m.digest, err)
	}
	return m, err
}

// allThere refuses a manifest that names blobs (a JSON array) which the
// repository does not have. In the transaction that stores it, so that none is
// collected meanwhile.
func allThere(tx *sql.Tx, repository string, id int64, blobs string) error {
	var missing string
	err := tx.QueryRow(`
		SELECT value FROM json_each(?)
		WHERE NOT EXISTS (SELECT 1 FROM links WHERE repository = ? AND digest = value) LIMIT 1`, blobs, id).Scan(&missing)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	e := refuse(404, "MANIFEST_BLOB_UNKNOWN", "the manifest names blob %s, which repository %s does not have", missing, repository)
	e.Detail = map[string]string{"digest": missing}
	return e
}

// absent is one of the manifests that repository does not have, "" if it has all.
func (r *Registry) absent(ctx context.Context, repository string, manifests []digest) (one string, err error) {
	if len(manifests) == 0 {
		return "", nil
	}
	list, err := json.Marshal(manifests)
	if err != nil {
		return "", fmt.Errorf("look up manifests: %w", err)
	}
	err = r.read.QueryRowContext(ctx, `
		SELECT value FROM json_each(?) WHERE NOT EXISTS (
			SELECT 1 FROM manifests WHERE repository = (SELECT id FROM repositories WHERE name = ?) AND digest = value)
		LIMIT 1`, string(list), repository).Scan(&one)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("look up manifests: %w", err)
	}
	return one, nil
}

// deleteManifest deletes a tag alone, or by digest a manifest with its tags and
// its place among referrers. What refers to it stays.
func (r *Registry) deleteManifest(ctx context.Context, repository string, ref reference) error {
	query := "DELETE FROM manifests WHERE digest = ? AND repository = (SELECT id FROM repositories WHERE name = ?)"
	if ref.tag != "" {
		query = "DELETE FROM tags WHERE tag = ? AND repository = (SELECT id FROM repositories WHERE name = ?)"
	}
	var deleted int64
	err := r.commit(ctx, func(tx *sql.Tx) error {
		result, err := tx.Exec(query, ref.String(), repository)
		if err != nil {
			return err
		}
		deleted, err = result.RowsAffected()
		return err
	})
	if err != nil {
		return fmt.Errorf("delete manifest %s: %w", ref, err)
	}
	if deleted == 0 {
		return manifestUnknown(repository, ref)
	}
	return nil
}

// listTags returns up to n tags behind last, in byte order, and whether there
// are more.
func (r *Registry) listTags(ctx context.Context, repository string, n int, last string) (tags []string, more bool, err error) {
	var id int64
	err = r.read.QueryRowContext(ctx, "SELECT id FROM repositories WHERE name = ?", repository).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, refuse(404, "NAME_UNKNOWN", "there is no repository %s", repository)
	}
	if err != nil {
		return nil, false, fmt.Errorf("list tags of %s: %w", repository, err)
	}
	rows, err := r.read.QueryContext(ctx, "SELECT tag FROM tags WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?", id, last, n+1)
	if err != nil {
		return nil, false, fmt.Errorf("list tags of %s: %w", repository, err)
	}
	defer rows.Close()
	tags = []string{}
	for rows.Next() {
		var tag string
		if err := rows.Scan(&tag); err != nil {
			return nil, false, fmt.Errorf("list tags of %s: %w", repository, err)
		}
		tags = append(tags, tag)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("list tags of %s: %w", repository, err)
	}
	if len(tags) > n {
		return tags[:n], true, nil
	}
	return tags, false, nil
}
