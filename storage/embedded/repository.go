package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/scittd/scittd/storage"
)

var (
	_ storage.Registry   = (*Registry)(nil)
	_ storage.Repository = repository{}
)

// Repository opens a repository in process. It need not exist: it begins with
// its first blob or manifest.
func (r *Registry) Repository(name string) (storage.Repository, error) {
	if err := checkName(name); err != nil {
		return nil, inStorage(err)
	}
	return repository{r, name}, nil
}

type repository struct {
	registry *Registry
	name     string
}

// inStorage says a refusal in storage's words: absent, or refused for good.
func inStorage(err error) error {
	var refusal *Error
	switch {
	case !errors.As(err, &refusal):
		return err
	case refusal.Status == 404 && refusal.Code != "MANIFEST_BLOB_UNKNOWN":
		return fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	case refusal.Status == 404, refusal.Status == 507: // the blob may still come, the disk be freed
		return err
	default:
		return fmt.Errorf("%w: %w", storage.ErrRefused, err)
	}
}

func (r repository) Manifest(ctx context.Context, ref string) (storage.Descriptor, []byte, error) {
	parsed, err := parseReference(ref)
	if err != nil {
		return storage.Descriptor{}, nil, inStorage(err)
	}
	m, size, err := r.registry.getManifest(ctx, r.name, parsed, true)
	if err == nil && digestOf(m.body, m.digest) != m.digest {
		err = fmt.Errorf("%w: manifest %s does not have that digest: registry.db is damaged", storage.ErrOtherBytes, m.digest)
	}
	if err != nil {
		return storage.Descriptor{}, nil, inStorage(err)
	}
	return storage.Descriptor{MediaType: m.mediaType, Digest: string(m.digest), Size: size}, m.body, nil
}

func (r repository) Blob(ctx context.Context, s string) (io.ReadCloser, int64, error) {
	d, err := parseDigest(s)
	if err != nil {
		return nil, 0, inStorage(err)
	}
	f, size, err := r.registry.openBlob(ctx, r.name, d)
	if err != nil {
		return nil, 0, inStorage(err)
	}
	return &checkedBlob{f, d, d.hash(), r.registry}, size, nil
}

// checkedBlob ends with io.EOF only if the file still has its digest.
type checkedBlob struct {
	file   *os.File // not embedded: its WriteTo would pass Read by
	digest digest
	hash   hash.Hash
	from   *Registry
}

func (b *checkedBlob) Read(p []byte) (int, error) {
	n, err := b.file.Read(p)
	b.hash.Write(p[:n])
	if err == io.EOF && b.digest.with(b.hash) != b.digest {
		b.from.spoilt.Store(b.digest, true)
		err = fmt.Errorf("%w: the file of blob %s is damaged", storage.ErrOtherBytes, b.digest)
	}
	return n, err
}

func (b *checkedBlob) Close() error { return b.file.Close() }

func (r repository) HasBlob(ctx context.Context, s string) (size int64, ok bool, err error) {
	d, err := parseDigest(s)
	if err != nil {
		return 0, false, inStorage(err)
	}
	size, err = r.registry.wholeBlob(ctx, r.name, d)
	var refusal *Error
	if errors.As(err, &refusal) {
		return 0, false, nil
	}
	return size, err == nil, err
}

func (r repository) PushBlob(ctx context.Context, s string, size int64, open func() (io.ReadCloser, error)) error {
	d, err := parseDigest(s)
	if err != nil {
		return inStorage(err)
	}
	if _, err := r.registry.wholeBlob(ctx, r.name, d); err == nil {
		return nil
	}
	body, err := open()
	if err != nil {
		return fmt.Errorf("open blob %s: %w", d, err)
	}
	// One byte more than announced is enough to refuse it by its digest.
	err = r.registry.putBlob(ctx, r.name, d, io.LimitReader(body, size+1))
	return inStorage(errors.Join(err, body.Close()))
}

func (r repository) PushManifest(ctx context.Context, mediaType string, body []byte, tag string) (storage.Descriptor, error) {
	var tags []string
	if tag != "" {
		if err := checkTag(tag); err != nil {
			return storage.Descriptor{}, inStorage(err)
		}
		tags = []string{tag}
	}
	m, err := r.registry.putManifest(ctx, r.name, "", tags, mediaType, body)
	if err != nil {
		return storage.Descriptor{}, inStorage(err)
	}
	return storage.Descriptor{MediaType: mediaType, Digest: string(m.digest), Size: int64(len(body))}, nil
}

func (r repository) Referrers(ctx context.Context, subject, artifactType string) ([]storage.Descriptor, error) {
	d, err := parseDigest(subject)
	if err != nil {
		return nil, inStorage(err)
	}
	var list []storage.Descriptor
	l := listing{repository: r.name, subject: d, artifactType: artifactType}
	for {
		page, err := r.registry.listReferrers(ctx, l)
		if err != nil {
			return nil, err
		}
		for _, referrer := range page.list {
			var one storage.Descriptor
			if err := json.Unmarshal(referrer.descriptor, &one); err != nil {
				return nil, fmt.Errorf("list referrers of %s: %w", subject, err)
			}
			list = append(list, one)
		}
		if l.after = page.next(); l.after == "" {
			return list, nil
		}
	}
}
