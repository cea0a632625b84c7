package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/scittd/scittd/internal/registrar"
	"github.com/scittd/scittd/ledger"
)

// tallyTime is how long counting the outbox may keep a scrape waiting.
const tallyTime = 2 * time.Second

// outboxMetrics shows what is to be placed, as everybody sees it, and what this
// process placed. The only label is a registry's name, which configurations give.
func (s *service) outboxMetrics(ctx context.Context, w io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, tallyTime)
	defer cancel()
	now, err := s.db.Now(ctx)
	var tallies []ledger.Tally
	if err == nil {
		tallies, err = s.db.Tallies(ctx, now)
	}
	if err != nil {
		s.log.WarnContext(ctx, "outbox not counted", "err", err)
	}
	age := func(since time.Time) float64 {
		if since.IsZero() {
			return 0
		}
		return max(0, now.Sub(since).Seconds())
	}
	for _, m := range []struct {
		name, help string
		value      func(ledger.Tally) float64
	}{
		{"queued", "Deliveries that are to be placed.", func(t ledger.Tally) float64 { return float64(t.Queued) }},
		{"refused", "Deliveries that were refused for good or parked, and wait for an operator.", func(t ledger.Tally) float64 { return float64(t.Refused) }},
		{"due_seconds", "How long the delivery waits that is due longest: work that nobody came to, or that a registry in trouble keeps.", func(t ledger.Tally) float64 { return age(t.Due) }},
		{"oldest_seconds", "Age of the oldest entry of which something is queued.", func(t ledger.Tally) float64 { return age(t.Oldest) }},
	} {
		heading(w, "scittd_outbox_"+m.name, "gauge", m.help)
		for _, t := range tallies {
			sample(w, "scittd_outbox_"+m.name, t.Registry, "", m.value(t))
		}
	}
	if s.courier != nil {
		courierMetrics(w, s.courier.Figures())
	}
}

// courierMetrics shows how each registry fares.
func courierMetrics(w io.Writer, routes []registrar.RouteFigures) {
	for _, m := range []struct {
		name, kind, help string
		value            func(registrar.RouteFigures) uint64
	}{
		{"placed_total", "counter", "Deliveries that this process placed.", func(f registrar.RouteFigures) uint64 { return f.Placed }},
		{"refused_total", "counter", "Deliveries that were refused for good.", func(f registrar.RouteFigures) uint64 { return f.Refused }},
		{"failed_total", "counter", "Tries that failed and will be repeated.", func(f registrar.RouteFigures) uint64 { return f.Failed }},
		{"busy", "gauge", "Images that are being worked on.", func(f registrar.RouteFigures) uint64 { return uint64(f.Busy) }},
		{"breaker_open", "gauge", "1 while the registry is in trouble, and only probes are sent.", func(f registrar.RouteFigures) uint64 {
			if f.Open {
				return 1
			}
			return 0
		}},
	} {
		heading(w, "scittd_courier_"+m.name, m.kind, m.help)
		for _, f := range routes {
			sample(w, "scittd_courier_"+m.name, f.Registry, "", float64(m.value(f)))
		}
	}
	const lag = "scittd_courier_lag_seconds"
	heading(w, lag, "histogram", "How long after its registration, which is kept to the second, a claim was placed.")
	for _, f := range routes {
		sum := uint64(0)
		for i, n := range f.Lag.Buckets {
			sum += n
			bound := "+Inf"
			if i < len(registrar.LagBounds) {
				bound = number(registrar.LagBounds[i].Seconds())
			}
			sample(w, lag+"_bucket", f.Registry, bound, float64(sum))
		}
		sample(w, lag+"_sum", f.Registry, "", f.Lag.Sum.Seconds())
		sample(w, lag+"_count", f.Registry, "", float64(sum))
	}
}

func heading(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func sample(w io.Writer, name, registry, bound string, value float64) {
	labels := fmt.Sprintf("registry=%q", registry)
	if bound != "" {
		labels += fmt.Sprintf(",le=%q", bound)
	}
	fmt.Fprintf(w, "%s{%s} %s\n", name, labels, number(value))
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
