package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/scittd/scittd/api/apitype"
	"github.com/scittd/scittd/internal/checkpoint"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/replay"
	"github.com/scittd/scittd/statement"
)

// circle says of each of two policies that it replaced the other one.
type circle struct{ asked int }

func (c *circle) Policy(ctx context.Context) (apitype.Policy, error) {
	return c.PolicyOf(ctx, statement.ID{0})
}

func (c *circle) PolicyOf(_ context.Context, id statement.ID) (apitype.Policy, error) {
	if c.asked++; c.asked > 10 {
		return apitype.Policy{}, errors.New("asked for ever")
	}
	return apitype.Policy{
		Entry: id.String(), Index: 7 - uint64(id[0]), Policy: json.RawMessage(fmt.Sprintf(`{"previous": %q}`, statement.ID{1 - id[0]})),
	}, nil
}

func (c *circle) Signed(context.Context) ([]statement.ID, error) { return nil, nil }

func TestAHistoryThatGoesRoundInCirclesIsNoHistory(t *testing.T) {
	liar := &circle{}
	if all, err := history(t.Context(), liar); !errors.Is(err, errMisbehaved) || liar.asked != 3 {
		t.Errorf("%d policies after %d questions, %v", len(all), liar.asked, err)
	}
}

func TestADownloadIsNoLongerThanTheLog(t *testing.T) {
	get := func(context.Context, uint64, int) ([]byte, error) { return nil, nil }
	add := func([]byte) (int, error) { return 3, nil }
	if err := pages(t.Context(), 0, 5, get, add, func(uint64) {}); !errors.Is(err, errMisbehaved) {
		t.Errorf("6 entries of 5: %v", err)
	}
	if err := pages(t.Context(), 0, 6, get, add, func(uint64) {}); err != nil {
		t.Errorf("6 entries of 6: %v", err)
	}
}

func TestACheckpointOfAnotherLogSaysNothingOfThisOne(t *testing.T) {
	c := keptCheckpoint{Checkpoint: checkpoint.Checkpoint{Origin: "other.example/log", Size: 1}, file: "old"}
	err := c.continues(replay.Report{Size: 1, Announced: []ledger.Service{{Origin: "scitt.example/log"}}})
	if want := `checkpoint old is of another log: "other.example/log", and this is "scitt.example/log"`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
