package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// RemoveEvidence removes every artifact that carries evidence (a digest) from
// subject: the manifests that were placed, as far as the caller knows them, and
// those that the referrers list shows. The blob stays; see Deleter. Transparency
// artifacts stay, too, whatever they speak of. ErrRefused: the registry does not
// delete; nil: nothing is left that carries it.
func RemoveEvidence(ctx context.Context, repo Repository, subject, evidence string, placed ...string) error {
	fail := func(err error) error { return fmt.Errorf("remove evidence %s from %s: %w", evidence, subject, err) }
	deleter, ok := repo.(Deleter)
	if !ok {
		return fail(fmt.Errorf("%w: nothing is deleted there", ErrRefused))
	}
	if err := errors.Join(validDigest(subject), validDigest(evidence)); err != nil {
		return fail(err)
	}
	carriers, err := carriersOf(ctx, repo, subject, evidence)
	if err != nil {
		return fail(err)
	}
	for _, manifest := range placed {
		if !slices.Contains(carriers, manifest) {
			carriers = append(carriers, manifest)
		}
	}
	for _, manifest := range carriers {
		if err := deleter.DeleteManifest(ctx, manifest); err != nil {
			return fail(err)
		}
	}
	return nil
}

// carriersOf are the listed artifacts that have evidence as a layer. Those that
// do not say by annotation what they carry are opened, on a crowded image only
// so many: what else carries it loses its blob all the same.
func carriersOf(ctx context.Context, repo Repository, subject, evidence string) ([]string, error) {
	const most = 256
	list, err := repo.Referrers(ctx, subject, "")
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	var carriers []string
	opened := 0
	for _, d := range list {
		about := d.Annotations[annotationPrefix+"evidence"]
		switch {
		case d.ArtifactType == TransparencyType, about != "" && about != evidence:
			continue
		case about == evidence:
			carriers = append(carriers, d.Digest)
			continue
		}
		if opened++; opened > most {
			continue
		}
		_, body, err := repo.Manifest(ctx, d.Digest)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrOtherBytes) {
			continue // listed, but swept or spoilt
		}
		if err != nil {
			return nil, err
		}
		if carries(body, evidence) {
			carriers = append(carriers, d.Digest)
		}
	}
	return carriers, nil
}

func carries(manifest []byte, evidence string) bool {
	var m ocispec.Manifest
	return json.Unmarshal(manifest, &m) == nil && slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool {
		return l.Digest.String() == evidence
	})
}

// Attached is what a manifest says of the artifact that it is.
type Attached struct {
	Subject string       // digest of the image it refers to, "" if it does not
	Layers  []Descriptor // what it carries
}

// ReadAttached reads an artifact manifest; the zero Attached if it is none.
func ReadAttached(manifest []byte) Attached {
	var m ocispec.Manifest
	if json.Unmarshal(manifest, &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return Attached{}
	}
	a := Attached{Subject: m.Subject.Digest.String()}
	for _, l := range m.Layers {
		a.Layers = append(a.Layers, fromOCI(l))
	}
	return a
}
