package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
)

// counted is a database that has counted its outbox.
type counted struct {
	database
	now     time.Time
	tallies []ledger.Tally
	err     error
}

func (c counted) Now(context.Context) (time.Time, error) { return c.now, nil }
func (c counted) Tallies(context.Context, time.Time) ([]ledger.Tally, error) {
	return c.tallies, c.err
}

func TestMetricsSayWhatWaitsAndForHowLong(t *testing.T) {
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	s := &service{log: slog.New(slog.DiscardHandler), db: counted{now: now, tallies: []ledger.Tally{
		{Registry: "a.example", Queued: 7, Refused: 2, Due: now.Add(-1500 * time.Millisecond), Oldest: now.Add(-time.Hour)},
		{Registry: "b.example:5000", Refused: 1},
	}}}
	var text strings.Builder
	s.outboxMetrics(t.Context(), &text)
	for _, want := range []string{
		"# TYPE scittd_outbox_queued gauge\nscittd_outbox_queued{registry=\"a.example\"} 7\nscittd_outbox_queued{registry=\"b.example:5000\"} 0\n",
		"\nscittd_outbox_refused{registry=\"a.example\"} 2\nscittd_outbox_refused{registry=\"b.example:5000\"} 1\n",
		"\nscittd_outbox_due_seconds{registry=\"a.example\"} 1.5\n",
		"\nscittd_outbox_oldest_seconds{registry=\"a.example\"} 3600\nscittd_outbox_oldest_seconds{registry=\"b.example:5000\"} 0\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	text.Reset()
	s.db = counted{err: errors.New("away")}
	if s.outboxMetrics(t.Context(), &text); strings.Contains(text.String(), "{") {
		t.Errorf("figures of a database that is away:\n%s", &text)
	}
}

func TestMetricsSayHowARegistryFares(t *testing.T) {
	f := registrar.RouteFigures{Registry: "a.example", Busy: 3, Open: true, Placed: 4, Refused: 1, Failed: 9}
	f.Lag.Buckets[0], f.Lag.Buckets[2], f.Lag.Buckets[12], f.Lag.Sum = 2, 1, 1, 90001500*time.Millisecond
	var text strings.Builder
	courierMetrics(&text, []registrar.RouteFigures{f})
	for _, want := range []string{
		`scittd_courier_placed_total{registry="a.example"} 4`,
		`scittd_courier_failed_total{registry="a.example"} 9`,
		`scittd_courier_breaker_open{registry="a.example"} 1`,
		"# TYPE scittd_courier_lag_seconds histogram\n" +
			`scittd_courier_lag_seconds_bucket{registry="a.example",le="1"} 2`,
		`scittd_courier_lag_seconds_bucket{registry="a.example",le="5"} 3`,
		`scittd_courier_lag_seconds_bucket{registry="a.example",le="86400"} 3`,
		`scittd_courier_lag_seconds_bucket{registry="a.example",le="+Inf"} 4` + "\n" +
			`scittd_courier_lag_seconds_sum{registry="a.example"} 90001.5` + "\n" +
			`scittd_courier_lag_seconds_count{registry="a.example"} 4`,
	} {
		if !strings.Contains(text.String(), want+"\n") {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
}
