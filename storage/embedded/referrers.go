package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// A page of referrers is below the 4 MiB that clients read, its frame included,
// and has at most pageRows descriptors, which bounds the time it takes; many
// clients do not ask for a second one. One descriptor always fits.
const (
	pageBytes = MaxManifest - 64<<10
	pageRows  = 5000
)

// listing is what a page of referrers is asked for.
type listing struct {
	repository   string
	subject      digest
	artifactType string // "": all
	after        digest
}

type referrer struct {
	digest     digest
	descriptor []byte // JSON
}

// referrersPage is one page of a referrers list.
type referrersPage struct {
	list  []referrer
	bytes int
	more  bool // behind the last one
}

// add appends a referrer, or says that the page is full.
func (p *referrersPage) add(one referrer) bool {
	size := len(one.descriptor) + 1
	if p.more = len(p.list) > 0 && (len(p.list) == pageRows || p.bytes+size > pageBytes); p.more {
		return false
	}
	p.list = append(p.list, one)
	p.bytes += size
	return true
}

// next is behind which the next page starts; "": this is the last.
func (p *referrersPage) next() digest {
	if !p.more {
		return ""
	}
	return p.list[len(p.list)-1].digest
}

// index is the page as an image index.
func (p *referrersPage) index() []byte {
	body := make([]byte, 0, p.bytes+128)
	body = append(body, `{"schemaVersion":2,"mediaType":"`+ociIndex+`","manifests":[`...)
	for i, one := range p.list {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, one.descriptor...)
	}
	return append(body, "]}"...)
}

// listReferrers lists, in the order of their digests and behind a digest, the
// manifests that name subject, and those that an index under the referrers tag
// lists: clients wrote it when they met no referrers API, or mirrored it from
// where there is none.
//
// Descriptors are made from the manifests themselves: many clients leave
// artifactType and annotations out of such an index. What is not here is not
// listed.
func (r *Registry) listReferrers(ctx context.Context, l listing) (referrersPage, error) {
	page, err := r.pageOfReferrers(ctx, l)
	if err != nil {
		err = fmt.Errorf("list referrers of %s: %w", l.subject, err)
	}
	return page, err
}

// pageOfReferrers merges two queries. Both read rows in the order of digests and
// no more of them than they yield, so that a page costs what it holds, however
// many referrers there are.
func (r *Registry) pageOfReferrers(ctx context.Context, l listing) (page referrersPage, err error) {
	var repository int64
	err = r.read.QueryRowContext(ctx, "SELECT id FROM repositories WHERE name = ?", l.repository).Scan(&repository)
	if errors.Is(err, sql.ErrNoRows) {
		return page, nil
	}
	if err != nil {
		return page, err
	}
	digests, err := r.taggedReferrers(ctx, l)
	if err != nil {
		return page, err
	}
	var tagged referrersPage // a page of them, held back until the other query has come that far
	if len(digests) > 0 {
		list, err := json.Marshal(digests)
		if err != nil {
			return page, err
		}
		if err := r.eachReferrer(ctx, tagged.add, taggedQuery, repository, string(list), l.artifactType); err != nil {
			return page, err
		}
	}
	rest := tagged.list
	query, args := subjectQuery, []any{repository, string(l.subject), string(l.after)}
	if l.artifactType != "" {
		query, args = typeQuery, append(args, l.artifactType)
	}
	err = r.eachReferrer(ctx, func(one referrer) bool {
		for len(rest) > 0 && rest[0].digest <= one.digest {
			if rest[0].digest < one.digest && !page.add(rest[0]) {
				return false
			}
			rest = rest[1:]
		}
		// Behind a full page of tagged ones there are more of them, before this one.
		if last := tagged.next(); last != "" && last < one.digest {
			return false
		}
		return page.add(one)
	}, query, args...)
	if err != nil {
		return page, err
	}
	for len(rest) > 0 && !page.more && page.add(rest[0]) {
		rest = rest[1:]
	}
	page.more = page.more || tagged.more
	return page, nil
}

const columns = "m.media_type, m.digest, length(m.body), m.artifact_type, m.annotations"

const (
	subjectQuery = "SELECT " + columns + ` FROM manifests m INDEXED BY manifests_subject
		WHERE m.repository = ? AND m.subject = ? AND m.digest > ? ORDER BY m.digest`
	typeQuery = "SELECT " + columns + ` FROM manifests m INDEXED BY manifests_type
		WHERE m.repository = ? AND m.subject = ? AND m.digest > ? AND m.artifact_type = ? ORDER BY m.digest`
	// json_each yields the list in its order.
	taggedQuery = "SELECT " + columns + ` FROM json_each(?2) j CROSS JOIN manifests m
		ON m.repository = ?1 AND m.digest = j.value WHERE ?3 = '' OR m.artifact_type = ?3`
)

// eachReferrer calls add with each row of a query until it wants no more.
func (r *Registry) eachReferrer(ctx context.Context, add func(referrer) bool, query string, args ...any) error {
	rows, err := r.read.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	types := quoted{}
	for rows.Next() {
		var mediaType, artifactType, annotations sql.RawBytes
		var d digest
		var size int64
		if err := rows.Scan(&mediaType, (*string)(&d), &size, &artifactType, &annotations); err != nil {
			return err
		}
		one := make([]byte, 0, 256+len(annotations))
		one = append(append(one, `{"mediaType":`...), types.of(mediaType)...)
		one = append(append(append(one, `,"digest":"`...), d...), `","size":`...)
		one = strconv.AppendInt(one, size, 10)
		if len(artifactType) > 0 {
			one = append(append(one, `,"artifactType":`...), types.of(artifactType)...)
		}
		if text := string(annotations); text != "null" && text != "{}" {
			one = append(append(one, `,"annotations":`...), annotations...)
		}
		if !add(referrer{d, append(one, '}')}) {
			break
		}
	}
	return rows.Err()
}

// quoted are texts as JSON strings: of media types there are few.
type quoted map[string][]byte

func (q quoted) of(text []byte) []byte {
	if known, ok := q[string(text)]; ok {
		return known
	}
	quoted, _ := json.Marshal(string(text)) // strings always marshal
	q[string(text)] = quoted
	return quoted
}

// taggedReferrers returns the digests that the index under the referrers tag
// lists behind l.after, in order. Anything else under that tag, the subject
// included, lists nothing.
func (r *Registry) taggedReferrers(ctx context.Context, l listing) (digests []digest, err error) {
	m, _, err := r.getManifest(ctx, l.repository, reference{tag: l.subject.referrersTag()}, true)
	var refusal *Error
	if errors.As(err, &refusal) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if m.mediaType != ociIndex || m.digest == l.subject {
		return nil, nil
	}
	var c content
	if err := c.read(m.body); err != nil { // it is valid: putManifest has checked it
		return nil, fmt.Errorf("read index %s: %w", m.digest, err)
	}
	slices.Sort(c.manifests)
	behind, found := slices.BinarySearch(c.manifests, l.after)
	if found {
		behind++
	}
	return slices.Compact(c.manifests[behind:]), nil
}
