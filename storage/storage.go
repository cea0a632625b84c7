// Package storage is the OCI registry side: it hangs evidence and transparency
// artifacts on an image, as referrers, and reads them back.
//
// [PlaceEvidence] and [PlaceTransparency] work on any [Repository]. [Remote] is
// an external registry, reached through oras-go; the embedded registry brings
// its own. Three promises hold for both:
//
//   - The same input gives the same manifest, byte for byte: whoever repeats a
//     placement, after a crash or from another replica, adds nothing.
//   - nil is returned only after the referrers list was read and shows the
//     manifest; where a Profile says that there is none, the manifest itself. A
//     201 proves nothing, and neither does an OCI-Subject header.
//   - Only digests count. Nothing is tagged, except the list that the referrers
//     tag schema keeps at registries without the referrers API.
//
// It knows digests, manifests and referrers. It does not know ledgers, policies
// or signatures, and it does not schedule: who calls it decides when to try
// again, by the errors below.
package storage

import (
	"context"
	"errors"
	"io"
)

// Media types of the transparency artifact. A manifest whose artifactType is
// StatementType is a submission, so nothing placed here ever carries that one.
const (
	TransparencyType = "application/scitt-receipt+cose"   // artifactType, and its receipt layer
	StatementType    = "application/scitt-statement+cose" // its Transparent Statement layer
)

var (
	// ErrNotFound: no such repository, manifest or blob.
	ErrNotFound = errors.New("not found in the registry")
	// ErrSubjectAbsent: the image to refer to is not there (yet).
	ErrSubjectAbsent = errors.New("the image is not in the repository")
	// ErrEvidenceAbsent: the caller has no bytes, and the repository has no such blob.
	ErrEvidenceAbsent = errors.New("the evidence is neither staged nor in the repository")
	// ErrNotListed: everything was pushed, yet the referrers list does not show
	// it. Repeating is harmless.
	ErrNotListed = errors.New("pushed, but not in the referrers list yet")
	// ErrOtherBytes: what came is not what the digest promises.
	ErrOtherBytes = errors.New("the registry sent other bytes")
	// ErrRefused: the registry will not take this however often it is repeated
	// (400, 405, 413, 415).
	ErrRefused = errors.New("the registry refuses it for good")
)

// Descriptor points to content, as in the OCI image specification.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// Repository is what placing needs of one repository. Implementations may be
// used by any number of goroutines, and every write may be repeated.
type Repository interface {
	// Manifest fetches by digest or tag, at most 4 MiB. The bytes match the
	// digest of the Descriptor, and that is the one asked for. ErrNotFound.
	Manifest(ctx context.Context, ref string) (Descriptor, []byte, error)

	// Blob opens a blob of that many bytes; ErrNotFound. Reading to the end
	// fails when the bytes are not those of the digest.
	Blob(ctx context.Context, digest string) (io.ReadCloser, int64, error)

	// HasBlob only looks.
	HasBlob(ctx context.Context, digest string) (size int64, ok bool, err error)

	// PushBlob streams size bytes. open is called once per attempt and must
	// yield the same bytes each time. Pushing a blob that is there is no error.
	PushBlob(ctx context.Context, digest string, size int64, open func() (io.ReadCloser, error)) error

	// PushManifest puts body under its digest, and under tag unless that is
	// empty. If body has a subject, it is in the referrers list afterwards, as
	// far as the registry's answers can be believed: read it back.
	PushManifest(ctx context.Context, mediaType string, body []byte, tag string) (Descriptor, error)

	// Referrers lists what refers to subject, with artifact type (the config's
	// media type when the manifest names none) and annotations; artifactType ""
	// lists all. Nothing refers to an image that is not there.
	Referrers(ctx context.Context, subject, artifactType string) ([]Descriptor, error)
}

// Registry opens repositories. Opening asks nobody: a repository that does not
// exist comes into being with the first push.
type Registry interface {
	Repository(name string) (Repository, error)
}

// Evidence is a blob that a claim speaks of: an SBOM, a scan result, a build
// record.
type Evidence struct {
	Digest    string
	MediaType string // becomes artifactType and layer type; see PlaceEvidence
	// Open yields the bytes and their number, as often as it is called. nil: the
	// blob must already be in the repository.
	Open func() (io.ReadCloser, int64, error)
}

// Transparency is the artifact that proves a registration. Its bytes never
// change, so neither does its manifest.
type Transparency struct {
	Transparent []byte // the Transparent Statement
	Receipt     []byte // its receipt alone

	// Annotations io.github.scittd.*, for filtering. One that is empty, longer
	// than 256 bytes or not clean text is left out: the statement has it.
	Entry, Issuer, MediaType, PredicateType, Evidence, Log string

	Created string // registration time, RFC 3339
}
