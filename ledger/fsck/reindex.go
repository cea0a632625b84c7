package fsck

import (
	"context"
	"errors"
	"fmt"
)

// ErrUnsound: the log itself is damaged, so that nothing may be derived from it.
var ErrUnsound = errors.New("the log itself is damaged")

// Difference is what Reindex found, or wrote.
type Difference struct {
	Size    uint64 `json:"size"`
	Entries int    `json:"entries"` // index rows
	Tiles   int    `json:"tiles"`
	Terms   int    `json:"terms"` // dictionary texts, by what they are found
}

// Same says that there is none.
func (d Difference) Same() bool { return d.Entries == 0 && d.Tiles == 0 && d.Terms == 0 }

// Compare rebuilds index and tiles from the statements and reports how the
// stored ones differ. It changes nothing. ErrUnsound: what they follow from is
// damaged too; found was told.
func Compare(ctx context.Context, s Store, found func(Finding)) (Difference, error) {
	return rebuild(ctx, s, found, func(*Checker) error { return nil })
}

// Reindex writes what differs, one transaction for each page with a difference.
// It compares first, and refuses a log that is damaged itself (ErrUnsound). What
// it returns was written.
func Reindex(ctx context.Context, s Store, found func(Finding)) (Difference, error) {
	if d, err := Compare(ctx, s, found); err != nil || d.Same() {
		return d, err
	}
	d, err := rebuild(ctx, s, func(Finding) {}, func(c *Checker) error {
		if len(c.stale) == 0 && len(c.broken) == 0 {
			return nil
		}
		return s.Reindex(ctx, c.stale, c.broken)
	})
	if err == nil && d.Terms > 0 {
		err = s.Reindex(ctx, nil, nil)
	}
	return d, err
}

func rebuild(ctx context.Context, s Store, found func(Finding), each func(*Checker) error) (Difference, error) {
	var d Difference
	unsound := 0
	c, err := New(ctx, s, func(f Finding) {
		switch f.Kind {
		case Head, Entry, Statement:
			unsound++
		case Database:
			d.Terms++
		case Kept:
			return // nothing to derive it from
		}
		found(f)
	})
	if err != nil {
		return d, err
	}
	d.Size = c.size
	for more := true; more; {
		if more, err = c.Step(ctx); err != nil {
			return d, err
		}
		d.Entries += len(c.stale)
		d.Tiles += len(c.broken)
		if err := each(c); err != nil {
			return d, err
		}
	}
	if err := c.Finish(ctx, false); err != nil {
		return d, err
	}
	if unsound > 0 {
		return d, fmt.Errorf("%w: %d findings about heads, entries and statements", ErrUnsound, unsound)
	}
	return d, nil
}
