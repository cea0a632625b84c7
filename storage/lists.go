package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// For who stands before a registry: what it knows of the registry's lists, and
// a way to keep one right for what others pushed and deleted. Its lists are the
// ones that placing keeps, so the two never overwrite each other.

// Capability is how the repository lists referrers, as far as it was found out:
// "api", "tags", "both" (the API answers but does not list), "off" (nowhere, by
// order), or "" for what nobody knows yet. Only "api" means that the registry's
// own answer is the whole list.
func (r *Remote) Capability(ctx context.Context, repository string) (string, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return "", err
	}
	return listings[repo.listed(ctx)], nil
}

// List sees to it that a manifest with a subject, which somebody has just pushed,
// is listed, and returns nil once a list that was read shows it. promised: the
// registry answered with OCI-Subject. Errors are those of placing.
func (r *Remote) List(ctx context.Context, repository string, manifest Descriptor, body []byte, promised bool) error {
	repo, err := r.repository(repository)
	if err != nil {
		return err
	}
	attempt := fmt.Sprintf("list manifest %s in %s", manifest.Digest, repository)
	if err := validDigest(manifest.Digest); err != nil {
		return fmt.Errorf("%s: %w", attempt, err)
	}
	var m referrer
	if err := json.Unmarshal(body, &m); err != nil {
		return fmt.Errorf("%s: %w", attempt, err)
	}
	if m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return fmt.Errorf("%s: it has no subject", attempt)
	}
	if repo.listed(ctx) == nowhere {
		return fmt.Errorf("%s: %w: its profile says referrers=off", attempt, ErrNotListed)
	}
	if err := repo.list(ctx, m.Subject.Digest, m.describe(manifest), promised); err != nil {
		return repo.failure("push to", attempt, err)
	}
	return Placer{}.readBack(ctx, repo, m.Subject.Digest.String(), m.describe(manifest))
}

// Subject is what a manifest refers to, "" if nothing or if it is not there.
func (r *Remote) Subject(ctx context.Context, repository, manifest string) (string, error) {
	repo, err := r.repository(repository)
	if err != nil {
		return "", err
	}
	_, body, err := repo.Manifest(ctx, manifest)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	var m referrer
	if err != nil || json.Unmarshal(body, &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return "", err
	}
	return m.Subject.Digest.String(), nil
}

// Unlist takes a manifest that was deleted off the list that is kept under the
// referrers tag. Where there is no such list there is nothing to do.
func (r *Remote) Unlist(ctx context.Context, repository, subject, manifest string) error {
	repo, err := r.repository(repository)
	if err != nil {
		return err
	}
	attempt := fmt.Sprintf("take manifest %s off the list in %s", manifest, repository)
	for _, d := range []string{subject, manifest} {
		if err := validDigest(d); err != nil {
			return fmt.Errorf("%s: %w", attempt, err)
		}
	}
	switch repo.listed(ctx) {
	case byAPI, nowhere:
		return nil
	}
	return repo.failure("push to", attempt, repo.untag(ctx, digest.Digest(subject), digest.Digest(manifest)))
}

// repository is Repository, as what it is.
func (r *Remote) repository(name string) (*repository, error) {
	repo, err := r.Repository(name)
	if err != nil {
		return nil, err
	}
	return repo.(*repository), nil
}
