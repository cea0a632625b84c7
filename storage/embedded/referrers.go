package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/scittd/scittd/storage"
)

// pageBytes bounds the descriptors of one page of referrers, so that with its
// frame it stays below the 4 MiB that clients read. One descriptor always fits.
const pageBytes = MaxManifest - 64<<10

// referrersPage is one page of a referrers list.
type referrersPage struct {
	manifests []json.RawMessage
	next      digest // start the next page behind this one; "": this was the last
}

// listReferrers lists, in the order of their digests and behind a digest, the
// manifests that name subject, and those that an index under the referrers tag
// lists: clients wrote it when they met no referrers API, or mirrored it from
// where there is none.
//
// Descriptors are made from the manifests themselves: many clients leave
// artifactType and annotations out of such an index. What is not here is not
// listed.
func (r *Registry) listReferrers(ctx context.Context, repository string, subject digest, artifactType string, after digest) (referrersPage, error) {
	page := referrersPage{manifests: []json.RawMessage{}}
	tagged, err := r.taggedReferrers(ctx, repository, subject)
	if err != nil {
		return page, err
	}
	rows, err := r.read.QueryContext(ctx, `
		WITH repo AS (SELECT id FROM repositories WHERE name = ?1),
		listed (digest) AS (
			SELECT digest FROM manifests WHERE repository = (SELECT id FROM repo) AND subject = ?2
			UNION SELECT value FROM json_each(?3)
		)
		SELECT m.media_type, m.digest, length(m.body), m.artifact_type, m.annotations
		FROM listed CROSS JOIN manifests m ON m.repository = (SELECT id FROM repo) AND m.digest = listed.digest
		WHERE m.digest > ?4 AND (?5 = '' OR m.artifact_type = ?5)
		ORDER BY m.digest`, repository, string(subject), tagged, string(after), artifactType)
	if err != nil {
		return page, fmt.Errorf("list referrers of %s: %w", subject, err)
	}
	defer rows.Close()
	var size int
	var last digest
	for rows.Next() {
		var d storage.Descriptor
		var annotations []byte
		if err := rows.Scan(&d.MediaType, &d.Digest, &d.Size, &d.ArtifactType, &annotations); err != nil {
			return page, fmt.Errorf("list referrers of %s: %w", subject, err)
		}
		if err := json.Unmarshal(annotations, &d.Annotations); err != nil {
			return page, fmt.Errorf("list referrers of %s: %w", subject, err)
		}
		entry, err := json.Marshal(d)
		if err != nil {
			return page, fmt.Errorf("list referrers of %s: %w", subject, err)
		}
		if size += len(entry) + 1; size > pageBytes && len(page.manifests) > 0 {
			page.next = last
			break
		}
		page.manifests = append(page.manifests, entry)
		last = digest(d.Digest)
	}
	if err := rows.Err(); err != nil {
		return page, fmt.Errorf("list referrers of %s: %w", subject, err)
	}
	return page, nil
}

// taggedReferrers returns the digests in the index under the referrers tag as a
// JSON array. Anything else under that tag, the subject included, lists
// nothing.
func (r *Registry) taggedReferrers(ctx context.Context, repository string, subject digest) (string, error) {
	m, _, err := r.getManifest(ctx, repository, reference{tag: subject.referrersTag()}, true)
	var refusal *Error
	if errors.As(err, &refusal) {
		return "[]", nil
	}
	if err != nil {
		return "", err
	}
	if m.mediaType != ociIndex || m.digest == subject {
		return "[]", nil
	}
	c, err := parseManifest(m.mediaType, m.body)
	if err != nil {
		return "", fmt.Errorf("read index %s: %w", m.digest, err)
	}
	digests := make([]string, 0, len(c.Manifests))
	for _, d := range c.Manifests {
		digests = append(digests, d.Digest)
	}
	list, err := json.Marshal(digests)
	return string(list), err
}
