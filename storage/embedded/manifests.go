package embedded

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	subject   digest // "" without
	body      []byte // as it was pushed, byte for byte
}

// content is what the registry reads in a manifest.
type content struct {
	SchemaVersion int
	MediaType     string
	ArtifactType  string
	Config        *descriptor
	Layers        []descriptor
	Manifests     []descriptor
	Subject       *descriptor
	Annotations   map[string]string

	blobs []string // that must be there; not nil, which json_each would take for one
}

func (m *content) UnmarshalJSON(object []byte) error {
	return members(object, map[string]any{
		"schemaVersion": &m.SchemaVersion, "mediaType": &m.MediaType, "artifactType": &m.ArtifactType,
		"config": &m.Config, "layers": &m.Layers, "manifests": &m.Manifests,
		"subject": &m.Subject, "annotations": &m.Annotations,
	})
}

type descriptor struct {
	MediaType string
	Digest    string
	Size      int64
	URLs      []string
}

func (d *descriptor) UnmarshalJSON(object []byte) error {
	return members(object, map[string]any{
		"mediaType": &d.MediaType, "digest": &d.Digest, "size": &d.Size, "urls": &d.URLs,
	})
}

// members reads the named members of an object. encoding/json by itself takes
// SUBJECT for subject: clients that do not would see another manifest than the
// registry.
func members(object []byte, named map[string]any) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(object, &all); err != nil {
		return err
	}
	for name, value := range named {
		raw, ok := all[name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func manifestInvalid(format string, args ...any) error {
	return refuse(400, "MANIFEST_INVALID", format, args...)
}

func manifestTooLarge() error {
	return refuse(413, "SIZE_INVALID", "a manifest has at most %d bytes", MaxManifest)
}

// parseManifest reads a manifest that was announced as mediaType.
func parseManifest(mediaType string, body []byte) (*content, error) {
	if len(body) > MaxManifest {
		return nil, manifestTooLarge()
	}
	m := content{blobs: []string{}}
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&m); err != nil {
		return nil, manifestInvalid("the manifest is not JSON of the right shape: %v", err)
	}
	if len(bytes.TrimSpace(body[d.InputOffset():])) > 0 {
		return nil, manifestInvalid("bytes follow the manifest")
	}
	if m.SchemaVersion != 2 {
		return nil, manifestInvalid("schemaVersion is %d, only 2 is known", m.SchemaVersion)
	}
	// SPEC distribution-spec 1.1, "Pushing Manifests": Content-Type SHOULD be,
	// and if the manifest has a mediaType MUST equal, that mediaType.
	if m.MediaType != "" && m.MediaType != mediaType {
		return nil, manifestInvalid("Content-Type is %q, the manifest's mediaType %q", clip(mediaType), clip(m.MediaType))
	}
	if m.Subject != nil {
		if _, err := parseDigest(m.Subject.Digest); err != nil {
			return nil, manifestInvalid("subject: %v", err)
		}
	}
	switch mediaType {
	case ociManifest, dockerManifest:
		return &m, m.checkImage()
	case ociIndex, dockerList:
		return &m, m.checkIndex()
	default:
		return nil, manifestInvalid("Content-Type is %q; this registry stores %s, %s, %s and %s",
			clip(mediaType), ociManifest, ociIndex, dockerManifest, dockerList)
	}
}

func (m *content) checkImage() error {
	if m.Config == nil {
		return manifestInvalid("the manifest has no config")
	}
	if m.Manifests != nil {
		return manifestInvalid("the manifest is image and index at once")
	}
	// SPEC distribution-spec 1.1, "Listing Referrers": an absent artifactType
	// MUST be set to the config descriptor's mediaType.
	if m.ArtifactType == "" {
		m.ArtifactType = m.Config.MediaType
	}
	for i, d := range append([]descriptor{*m.Config}, m.Layers...) {
		if _, err := parseDigest(d.Digest); err != nil {
			return manifestInvalid("descriptor %d: %v", i, err)
		}
		if d.Size < 0 {
			return manifestInvalid("descriptor %d has size %d", i, d.Size)
		}
		// Layers that may not be distributed live at their URLs.
		if len(d.URLs) == 0 {
			m.blobs = append(m.blobs, d.Digest)
		}
	}
	slices.Sort(m.blobs)
	m.blobs = slices.Compact(m.blobs)
	return nil
}

// checkIndex does not ask for the listed manifests: a promoted subset of an
// image's platforms is an index with holes.
func (m *content) checkIndex() error {
	if m.Config != nil || m.Layers != nil {
		return manifestInvalid("the manifest is image and index at once")
	}
	for i, d := range m.Manifests {
		if _, err := parseDigest(d.Digest); err != nil {
			return manifestInvalid("descriptor %d: %v", i, err)
		}
	}
	return nil
}

// reference is a digest, or else a tag.
type reference struct {
	digest digest
	tag    string
}

func parseReference(s string) (reference, error) {
	if strings.Contains(s, ":") {
		d, err := parseDigest(s)
		return reference{digest: d}, err
	}
	if !tagGrammar.MatchString(s) {
		return reference{}, manifestInvalid("%q is neither a tag nor a digest", clip(s))
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

// putManifest stores a manifest, its tag and its place among the referrers of
// its subject in one transaction. The subject need not exist.
func (r *Registry) putManifest(ctx context.Context, repository string, ref reference, mediaType string, body []byte) (manifest, error) {
	c, err := parseManifest(mediaType, body)
	if err != nil {
		return manifest{}, err
	}
	m := manifest{mediaType: mediaType, body: body}
	if ref.tag != "" {
		m.digest = digestOf(body, "sha256:")
	} else {
		m.digest = digestOf(body, ref.digest)
		if err := checkDigest(ref.digest, m.digest); err != nil {
			return manifest{}, err
		}
	}
	var subject any
	if c.Subject != nil {
		m.subject = digest(c.Subject.Digest)
		subject = c.Subject.Digest
	}
	annotations, err := json.Marshal(c.Annotations)
	if err != nil {
		return manifest{}, fmt.Errorf("store manifest: %w", err)
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
		// In the same transaction, so that no blob is collected meanwhile.
		var missing string
		err = tx.QueryRow(`
			SELECT value FROM json_each(?)
			WHERE NOT EXISTS (SELECT 1 FROM links WHERE repository = ? AND digest = value) LIMIT 1`, string(blobs), id).Scan(&missing)
		if err == nil {
			return refuse(404, "MANIFEST_BLOB_UNKNOWN", "the manifest names blob %s, which repository %s does not have", missing, repository)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = tx.Exec(`
			INSERT INTO manifests (repository, digest, media_type, subject, artifact_type, annotations, body)
			VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			id, string(m.digest), mediaType, subject, c.ArtifactType, string(annotations), body)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`
			INSERT INTO named (repository, digest, manifest) SELECT ?, value, ? FROM json_each(?) WHERE true
			ON CONFLICT DO NOTHING`, id, string(m.digest), string(blobs))
		if err != nil || ref.tag == "" {
			return err
		}
		_, err = tx.Exec(`
			INSERT INTO tags (repository, tag, manifest) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET manifest = excluded.manifest`, id, ref.tag, string(m.digest))
		return err
	})
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) {
		return manifest{}, fmt.Errorf("store manifest %s: %w", m.digest, err)
	}
	return m, err
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
