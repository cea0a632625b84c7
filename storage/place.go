package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/scittd/scittd/internal/failpoint"
)

// Placer hangs artifacts on images. The zero value is ready; it has no state.
type Placer struct {
	// Pause waits between two looks at a list that does not show what was
	// pushed, or returns why not. nil: really wait.
	Pause func(ctx context.Context, d time.Duration) error

	// SawImage is told of the manifest of an image that something is hung on, and
	// SawEvidence of the size of evidence, as soon as a placement knows it. nil:
	// nobody is.
	SawImage    func(manifest []byte)
	SawEvidence func(size int64)
}

// PlaceEvidence hangs evidence on subject (a digest) as an ordinary artifact:
// its artifactType is the evidence's media type, so that an SBOM is where tools
// look for SBOMs. It returns the digest of the manifest, which the referrers
// list shows.
//
// A referrer of that type that carries the evidence is reused, whoever pushed
// it. A missing or malformed media type becomes application/octet-stream.
// ErrSubjectAbsent, ErrEvidenceAbsent, ErrNotListed, ErrRefused, *RetryError;
// after any of them the call may be repeated.
func PlaceEvidence(ctx context.Context, repo Repository, subject string, e Evidence) (manifest string, err error) {
	return Placer{}.Evidence(ctx, repo, subject, e)
}

// PlaceTransparency hangs a transparency artifact on subject (a digest).
// Returns and errors are those of PlaceEvidence.
func PlaceTransparency(ctx context.Context, repo Repository, subject string, t Transparency) (manifest string, err error) {
	return Placer{}.Transparency(ctx, repo, subject, t)
}

// Evidence is PlaceEvidence.
func (p Placer) Evidence(ctx context.Context, repo Repository, subject string, e Evidence) (string, error) {
	image, err := p.lookUp(ctx, repo, subject)
	if err != nil {
		return "", fmt.Errorf("place evidence %s: %w", e.Digest, err)
	}
	size, err := pushEvidence(ctx, repo, e)
	if err != nil {
		return "", fmt.Errorf("place evidence %s: %w", e.Digest, err)
	}
	if p.SawEvidence != nil {
		p.SawEvidence(size)
	}
	blob := ocispec.Descriptor{MediaType: artifactType(e.MediaType), Digest: digest.Digest(e.Digest), Size: size}
	body := evidenceManifest(profileOf(repo), image, blob)
	carrier, err := findCarrier(ctx, repo, image, blob, digest.FromBytes(body).String())
	if err != nil {
		return "", fmt.Errorf("place evidence %s: %w", e.Digest, err)
	}
	if carrier != "" {
		return carrier, nil
	}
	manifest, err := p.attach(ctx, repo, image, body)
	if err != nil {
		return "", fmt.Errorf("place evidence %s: %w", e.Digest, err)
	}
	return manifest, nil
}

// Transparency is PlaceTransparency.
func (p Placer) Transparency(ctx context.Context, repo Repository, subject string, t Transparency) (string, error) {
	manifest, err := p.transparency(ctx, repo, subject, t)
	if err != nil {
		return "", fmt.Errorf("place transparency artifact of entry %s: %w", t.Entry, err)
	}
	return manifest, nil
}

func (p Placer) transparency(ctx context.Context, repo Repository, subject string, t Transparency) (string, error) {
	if len(t.Transparent) == 0 || len(t.Receipt) == 0 {
		return "", errors.New("it lacks the statement or the receipt")
	}
	image, err := p.lookUp(ctx, repo, subject)
	if err != nil {
		return "", err
	}
	body, err := t.manifest(profileOf(repo), image)
	if err != nil {
		return "", err
	}
	return p.attach(ctx, repo, image, body, t.Transparent, t.Receipt)
}

// pushEvidence puts the blob into the repository unless it is there, and
// returns its size.
func pushEvidence(ctx context.Context, repo Repository, e Evidence) (int64, error) {
	if err := validDigest(e.Digest); err != nil {
		return 0, err
	}
	size, there, err := repo.HasBlob(ctx, e.Digest)
	if err != nil || there {
		return size, err
	}
	if e.Open == nil {
		return 0, ErrEvidenceAbsent
	}
	rc, size, err := e.Open()
	if err != nil {
		return 0, fmt.Errorf("open the evidence: %w", err)
	}
	if err := rc.Close(); err != nil {
		return 0, fmt.Errorf("open the evidence: %w", err)
	}
	return size, repo.PushBlob(ctx, e.Digest, size, func() (io.ReadCloser, error) {
		rc, again, err := e.Open()
		if err == nil && again != size {
			rc.Close()
			return nil, fmt.Errorf("the evidence changed from %d to %d bytes", size, again)
		}
		return rc, err
	})
}

// lookUp describes the image from its own manifest: mediaType and size come
// from nowhere else.
func (p Placer) lookUp(ctx context.Context, repo Repository, subject string) (ocispec.Descriptor, error) {
	if err := validDigest(subject); err != nil {
		return ocispec.Descriptor{}, err
	}
	d, body, err := repo.Manifest(ctx, subject)
	if errors.Is(err, ErrNotFound) {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", subject, ErrSubjectAbsent)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if d.Digest != subject {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %s as %s", ErrOtherBytes, d.Digest, subject)
	}
	image, err := subjectDescriptor(d, body)
	if err == nil && p.SawImage != nil {
		p.SawImage(body)
	}
	return image, err
}

// findCarrier looks for a listed referrer of the blob's type that has the blob as a
// layer; ours is the manifest we would push. "" if there is none.
func findCarrier(ctx context.Context, repo Repository, image, blob ocispec.Descriptor, ours string) (string, error) {
	list, err := repo.Referrers(ctx, image.Digest.String(), blob.MediaType)
	if err != nil {
		return "", err
	}
	// Each candidate costs a request, so a crowded image is searched only so
	// far: missing one means an artifact more, no claim less.
	const most = 64
	opened := 0
	for _, d := range list {
		about := d.Annotations[annotationPrefix+"evidence"]
		if about != "" && about != blob.Digest.String() {
			continue // another's, by its own word
		}
		if d.Digest != ours {
			if opened++; opened > most {
				continue
			}
		}
		_, body, err := repo.Manifest(ctx, d.Digest)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrOtherBytes) {
			continue // listed, but swept or spoilt
		}
		if err != nil {
			return "", err
		}
		var m ocispec.Manifest
		if json.Unmarshal(body, &m) != nil || m.Subject == nil || m.Subject.Digest != image.Digest {
			continue
		}
		for _, l := range m.Layers {
			if l.Digest == blob.Digest {
				return d.Digest, nil
			}
		}
	}
	return "", nil
}

// attach pushes the manifest body and reads it back. blobs are its layers, as
// far as they are not there already.
func (p Placer) attach(ctx context.Context, repo Repository, image ocispec.Descriptor, body []byte, blobs ...[]byte) (string, error) {
	manifest, err := p.push(ctx, repo, body, "", append(blobs, ocispec.DescriptorEmptyJSON.Data))
	if err != nil {
		return "", err
	}
	failpoint.Hit(failpoint.Manifest)
	if err := p.readBack(ctx, repo, image.Digest.String(), manifest); err != nil {
		return "", err
	}
	return manifest.Digest, nil
}

// push repeats itself when the registry misses a blob that it has just
// acknowledged: one was swept in between, or another client was pushing the same
// one (the empty config is everybody's).
func (p Placer) push(ctx context.Context, repo Repository, body []byte, tag string, blobs [][]byte) (Descriptor, error) {
	const tries = 4
	for try := 1; ; try++ {
		for _, content := range blobs {
			if err := pushBytes(ctx, repo, content); err != nil {
				return Descriptor{}, err
			}
		}
		failpoint.Hit(failpoint.Blobs)
		manifest, err := repo.PushManifest(ctx, ocispec.MediaTypeImageManifest, body, tag)
		if !errors.Is(err, ErrNotFound) || try == tries {
			return manifest, err
		}
		if err := p.wait(ctx, time.Duration(try)*50*time.Millisecond); err != nil {
			return Descriptor{}, err
		}
	}
}

func (p Placer) wait(ctx context.Context, d time.Duration) error {
	if p.Pause != nil {
		return p.Pause(ctx, d)
	}
	return pause(ctx, d)
}

// listKeeper is a Repository whose referrers list may be kept by its clients,
// under the referrers tag. Any other client may overwrite that list with one it
// read before.
type listKeeper interface {
	// contest is how long a competitor may take from reading the list to writing
	// it, 0 if the registry keeps the list itself.
	contest(subject string) time.Duration
	// keepListed adds manifest to the list under the tag; from now on this
	// repository's list is kept there.
	keepListed(ctx context.Context, subject string, manifest Descriptor) error
}

// readBack returns nil once the list shows the manifest; where there is none, by
// order, once the manifest is there.
//
// A registry may be slow to list what it accepted: look again, three times. One
// that has not listed it by then never will, whatever it promised: keep the list
// for it. A list kept by tag may be overwritten just after it was read: believe
// only what is still there after a competitor's time, else put it in again.
func (p Placer) readBack(ctx context.Context, repo Repository, subject string, manifest Descriptor) error {
	profile := profileOf(repo)
	if profile.Referrers == ReferrersOff {
		_, _, err := repo.Manifest(ctx, manifest.Digest)
		return err
	}
	keeper, _ := repo.(listKeeper)
	if profile.Referrers == ReferrersAPI {
		keeper = nil
	}
	contest := func() time.Duration {
		if keeper == nil {
			return 0
		}
		return keeper.contest(subject)
	}
	look := func() (bool, error) {
		list, err := repo.Referrers(ctx, subject, "")
		if err != nil || !contains(list, manifest.Digest) || contest() == 0 {
			return contains(list, manifest.Digest), err
		}
		if err := p.wait(ctx, jitter(contest())); err != nil {
			return false, err
		}
		list, err = repo.Referrers(ctx, subject, "")
		return contains(list, manifest.Digest), err
	}

	listed, err := look()
	for _, d := range []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second} {
		if listed || err != nil || contest() > 0 {
			break
		}
		if err := p.wait(ctx, d); err != nil {
			return err
		}
		listed, err = look()
	}
	const rewrites = 10
	for try := 0; try < rewrites && keeper != nil && !listed && err == nil; try++ {
		if try > 0 { // so that those who overwrite each other get out of step
			if err := p.wait(ctx, jitter(time.Duration(try)*50*time.Millisecond)); err != nil {
				return err
			}
		}
		if err := keeper.keepListed(ctx, subject, manifest); err != nil {
			return err
		}
		listed, err = look()
	}
	if err == nil && !listed {
		err = fmt.Errorf("%s: %w", manifest.Digest, ErrNotListed)
	}
	return err
}

// jitter is between d and twice that.
func jitter(d time.Duration) time.Duration { return d + rand.N(d) }

// pushBytes pushes a small blob unless it is there.
func pushBytes(ctx context.Context, repo Repository, content []byte) error {
	dig := digest.FromBytes(content).String()
	if _, there, err := repo.HasBlob(ctx, dig); err != nil || there {
		return err
	}
	return repo.PushBlob(ctx, dig, int64(len(content)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
}
