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
