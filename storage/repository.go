package storage

import (
	"bytes"
	"context"
	_ "crypto/sha256" // digests
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
)

// Bounds on what a registry can make us hold in memory.
const (
	maxManifest     = 4 << 20 // one manifest, one page of referrers
	maxReferrers    = 10_000  // of one image
	maxListPages    = 100
	describedAtOnce = 4096 // descriptors remembered per repository
	listsAtOnce     = 1024 // referrers tags remembered per repository
	smallBlob       = 1 << 20
	uploadAttempts  = 3
)

// repository is one repository of a Remote.
//
// oras-go decides once per value whether a registry has the referrers API, and
// believes a header or a lone 200 in doubt. So every value here is told that it
// has, which makes oras-go leave the referrers tag alone, and the decision is
// ours (see listing).
type repository struct {
	remote *Remote
	ref    registry.Reference
	api    *remote.Repository

	emptyTurn sync.Mutex // held while the empty config is pushed

	mu        sync.Mutex // guards all below; never held during a request
	listing   listing
	decided   time.Time                   // when listing was
	asked     time.Time                   // when the memo was
	emptySeen time.Time                   // when the empty config was last known to be there
	described map[string]Descriptor       // by digest: what was learned by opening a manifest
	tags      map[digest.Digest]*tagState // by subject: the lists that we keep
	rewriting time.Duration               // how long that takes
}

var _ interface {
	Repository
	listKeeper
} = (*repository)(nil)

func newRepository(r *Remote, ref registry.Reference) *repository {
	repo := &repository{
		remote: r, ref: ref, described: map[string]Descriptor{},
		tags: map[digest.Digest]*tagState{},
	}
	repo.api = repo.open(r.client)
	return repo
}

func (r *repository) open(client remote.Client) *remote.Repository {
	repo := &remote.Repository{
		Client:               client,
		Reference:            r.ref,
		PlainHTTP:            r.remote.plain,
		MaxMetadataBytes:     maxManifest,
		ReferrerListMaxPages: maxListPages,
		ReferrerListPageSize: r.remote.profile.PageSize,
		TagListPageSize:      r.remote.profile.PageSize,
		SkipReferrersGC:      true, // deleting an old list could, at some registries, delete the image
	}
	repo.SetReferrersCapability(true) // fails only on a value already set
	return repo
}

func (r *repository) name() string { return r.ref.Repository }

func (r *repository) profile() Profile { return r.remote.profile }

// Manifest implements Repository.
func (r *repository) Manifest(ctx context.Context, ref string) (Descriptor, []byte, error) {
	fail := func(err error) (Descriptor, []byte, error) {
		return Descriptor{}, nil, r.failure("pull from", fmt.Sprintf("read manifest %s of %s", ref, r.name()), err)
	}
	desc, rc, err := r.api.Manifests().FetchReference(ctx, ref)
	if err != nil {
		return fail(err)
	}
	defer rc.Close()
	body, err := io.ReadAll(io.LimitReader(rc, maxManifest+1))
	if err != nil {
		return fail(err)
	}
	if len(body) > maxManifest || desc.Size > maxManifest {
		return fail(fmt.Errorf("%w: more than %d of them", ErrOtherBytes, maxManifest))
	}
	// The header, the Content-Length and the reference may each say something;
	// the bytes decide.
	if got := desc.Digest.Algorithm().FromBytes(body); got != desc.Digest {
		return fail(fmt.Errorf("%w: %s as %s", ErrOtherBytes, got, desc.Digest))
	}
	return Descriptor{MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: int64(len(body))}, body, nil
}

// Blob implements Repository.
func (r *repository) Blob(ctx context.Context, dig string) (io.ReadCloser, int64, error) {
	attempt := fmt.Sprintf("read blob %s of %s", dig, r.name())
	if err := validDigest(dig); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", attempt, err)
	}
	desc, rc, err := r.api.Blobs().FetchReference(ctx, dig)
	if err != nil {
		return nil, 0, r.failure("pull from", attempt, err)
	}
	return &checkedBlob{VerifyReader: content.NewVerifyReader(rc, desc), Closer: rc, attempt: attempt}, desc.Size, nil
}

// checkedBlob answers a read past the last byte with io.EOF only if the bytes
// were those of the digest.
type checkedBlob struct {
	*content.VerifyReader
	io.Closer
	attempt string
}

func (b *checkedBlob) Read(p []byte) (int, error) {
	n, err := b.VerifyReader.Read(p)
	if errors.Is(err, io.EOF) {
		if wrong := b.Verify(); wrong != nil {
			err = fmt.Errorf("%s: %w: %w", b.attempt, ErrOtherBytes, wrong)
		}
	}
	return n, err
}

// HasBlob implements Repository.
func (r *repository) HasBlob(ctx context.Context, dig string) (int64, bool, error) {
	attempt := fmt.Sprintf("look for blob %s in %s", dig, r.name())
	if err := validDigest(dig); err != nil {
		return 0, false, fmt.Errorf("%s: %w", attempt, err)
	}
	if dig == emptyConfig && r.hasEmpty() {
		return int64(len(ocispec.DescriptorEmptyJSON.Data)), true, nil
	}
	desc, err := r.api.Blobs().Resolve(ctx, dig)
	if err == nil && dig == emptyConfig {
		r.sawEmpty(r.remote.now())
	}
	err = r.failure("pull from", attempt, err)
	if errors.Is(err, ErrNotFound) {
		return 0, false, nil
	}
	return desc.Size, err == nil, err
}

// PushBlob implements Repository. Small blobs are rewound below us, by oras-go.
// The body of a big one streams and cannot be, so it is repeated here, from a
// fresh reader.
func (r *repository) PushBlob(ctx context.Context, dig string, size int64, open func() (io.ReadCloser, error)) error {
	attempt := fmt.Sprintf("push blob %s to %s", dig, r.name())
	if err := validDigest(dig); err != nil {
		return fmt.Errorf("%s: %w", attempt, err)
	}
	if dig == emptyConfig {
		r.emptyTurn.Lock()
		defer r.emptyTurn.Unlock()
		if r.hasEmpty() {
			return nil
		}
	}
	for try := 1; ; try++ {
		err := r.upload(ctx, attempt, digest.Digest(dig), size, open)
		if err == nil && dig == emptyConfig {
			r.sawEmpty(r.remote.now())
		}
		if err == nil || try == uploadAttempts || ctx.Err() != nil || !worthRepeating(err) {
			return err
		}
		if err := pause(ctx, time.Duration(try)*200*time.Millisecond); err != nil {
			return err
		}
	}
}

// The empty config is in every artifact. Asking for it each time would cost a
// request, and when many push it at once, distribution answers 500 for a while.
var emptyConfig = ocispec.DescriptorEmptyJSON.Digest.String()

// emptyHolds is how long it is taken to be there once it was.
const emptyHolds = time.Hour

func (r *repository) hasEmpty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remote.now().Sub(r.emptySeen) < emptyHolds
}

func (r *repository) sawEmpty(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.emptySeen = at
}

func (r *repository) upload(ctx context.Context, attempt string, dig digest.Digest, size int64, open func() (io.ReadCloser, error)) error {
	rc, err := open()
	if err != nil {
		return &sourceError{fmt.Errorf("%s: open it: %w", attempt, err)}
	}
	defer rc.Close()
	if chunk := r.profile().ChunkSize; chunk > 0 && size > int64(chunk) {
		return r.failure("push to", attempt, r.uploadInPieces(ctx, dig, size, chunk, rc))
	}
	var body io.Reader = rc
	if size <= smallBlob {
		// Also, net/http would send an empty stream as chunked.
		small, err := io.ReadAll(io.LimitReader(rc, size+1))
		if err != nil {
			return &sourceError{fmt.Errorf("%s: read it: %w", attempt, err)}
		}
		body = bytes.NewReader(small)
	}
	err = r.api.Blobs().Push(ctx, ocispec.Descriptor{Digest: dig, Size: size}, body)
	return r.failure("push to", attempt, err)
}

// sourceError: our own side could not be read, so the registry need not be
// asked again.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

func worthRepeating(err error) bool {
	var wait *RetryError
	var source *sourceError
	return !errors.As(err, &wait) && !errors.As(err, &source) &&
		!errors.Is(err, ErrDenied) && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrNotFound)
}

// PushManifest implements Repository.
func (r *repository) PushManifest(ctx context.Context, mediaType string, body []byte, tag string) (Descriptor, error) {
	if most := r.profile().limit(); len(body) > most {
		return Descriptor{}, fmt.Errorf("push manifest to %s: %w: %d bytes, at most %d", r.name(), ErrRefused, len(body), most)
	}
	desc := content.NewDescriptorFromBytes(mediaType, body)
	attempt := fmt.Sprintf("push manifest %s to %s", desc.Digest, r.name())
	var m referrer
	if err := json.Unmarshal(body, &m); err != nil {
		return Descriptor{}, fmt.Errorf("%s: %w", attempt, err)
	}
	if tag == "" {
		tag = desc.Digest.String()
	}
	var err error
	if m.Subject == nil || m.Subject.Digest.Validate() != nil {
		err = r.api.PushReference(ctx, desc, bytes.NewReader(body), tag)
	} else {
		err = r.pushReferrer(ctx, desc, body, tag, m)
	}
	if blobUnknown(err) {
		r.sawEmpty(time.Time{}) // it may be the one
	}
	if err != nil {
		return Descriptor{}, r.failure("push to", attempt, err)
	}
	described := m.describe(fromOCI(desc))
	r.remember(described)
	return described, nil
}

// referrer is what a listing tells of a manifest, read from the manifest.
type referrer struct {
	ArtifactType string              `json:"artifactType"`
	Config       *ocispec.Descriptor `json:"config"`
	Subject      *ocispec.Descriptor `json:"subject"`
	Annotations  map[string]string   `json:"annotations"`
}

// SPEC OCI distribution 1.1, listing referrers: artifactType is the manifest's
// or else its config's media type; annotations are the manifest's.
func (m referrer) describe(d Descriptor) Descriptor {
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	if d.ArtifactType == "" && m.Config != nil {
		d.ArtifactType = m.Config.MediaType
	}
	return d
}

// subjectWatch notes whether a push was answered with OCI-Subject.
type subjectWatch struct {
	remote.Client
	seen bool
}

func (w *subjectWatch) Do(req *http.Request) (*http.Response, error) {
	resp, err := w.Client.Do(req)
	if err == nil && resp.Header.Get("OCI-Subject") != "" {
		w.seen = true
	}
	return resp, err
}

// validDigest guards go-digest's methods, which panic on anything else, and
// URLs.
func validDigest(s string) error {
	if _, err := digest.Parse(s); err != nil {
		return fmt.Errorf("%q is no digest: %w", s, err)
	}
	return nil
}

func fromOCI(d ocispec.Descriptor) Descriptor {
	return Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, ArtifactType: d.ArtifactType, Annotations: d.Annotations}
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
