package storage

import (
	"context"
	"errors"
	"fmt"
)

// Tags is what some repositories can list, those of a Remote among them: their
// tags, at most limit.
type Tags interface {
	Tags(ctx context.Context, limit int) ([]string, error)
}

// KnowsRepository says whether a registry has a repository of that name, as far
// as it tells: of those that never answer 404 each is known.
func (r *Remote) KnowsRepository(ctx context.Context, name string) (bool, error) {
	repo, err := r.repository(name)
	if err != nil {
		return false, err
	}
	err = repo.api.Tags(ctx, "", func([]string) error { return errEnough })
	if err == nil || errors.Is(err, errEnough) {
		return true, nil
	}
	if err = repo.failure("pull from", "list the tags of "+name, err); errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return false, err
}

var _ Tags = (*repository)(nil)

var errEnough = errors.New("enough")

// Tags implements the interface. A repository that does not exist has none.
func (r *repository) Tags(ctx context.Context, limit int) ([]string, error) {
	var all []string
	err := r.api.Tags(ctx, "", func(page []string) error {
		if all = append(all, page...); len(all) >= limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		if err = r.failure("pull from", fmt.Sprintf("list the tags of %s", r.name()), err); errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		return nil, err
	}
	return all[:min(len(all), limit)], nil
}
