package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/scittd/scittd/ledger"
)

// openReader opens the log for reading beside those who write it. It needs the
// database and the log's names: no key, no registry, no marker of init.
func (s *service) openReader(ctx context.Context, c Config) (err error) {
	if s.db, err = openBeside(ctx, c); err != nil {
		return err
	}
	s.ledger, err = ledger.Open(ctx, s.db, ledger.Options{Log: s.log})
	if errors.Is(err, ledger.ErrEmpty) {
		return fmt.Errorf("%w: %w\nTry:   scittd init", errConfig, err)
	}
	if err != nil {
		return err
	}
	if says := s.ledger.Service(); says.URL != c.URL || says.Origin != c.Origin {
		return fmt.Errorf("%w: configured as %s (%s), but the log was made by %s (%s)\nTry:   set url and origin to those that init reported", errConfig, c.URL, c.Origin, says.URL, says.Origin)
	}
	return nil
}

// checkReader looks at what a service that only reads depends on.
func checkReader(ctx context.Context, c Config, ok func(part, format string, args ...any)) error {
	s := &service{log: slog.New(slog.DiscardHandler)}
	err := s.openReader(ctx, c)
	if err == nil {
		var head ledger.Head
		if head, err = s.ledger.Head(ctx); err == nil {
			ok("ledger", "size %d, root reproduced from its tiles; to be read only", head.Size)
			ok("policy", "entry %s", s.ledger.Policy().Entry)
		}
	}
	return errors.Join(err, s.close(ctx))
}

// refreshed is how often a process looks for what other replicas committed:
// after so long a new policy or key is known to a replica with nothing to do.
const refreshed = time.Second

// refresh keeps what this process says of the log up to date.
func (s *service) refresh(ctx context.Context) {
	tick := time.NewTicker(refreshed)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.ledger.Refresh(ctx)
		switch {
		case err == nil || failing || ctx.Err() != nil:
		case errors.Is(err, ledger.ErrHalted):
			s.log.Error("nothing is signed any more", "err", err)
		case errors.Is(err, ledger.ErrCorrupt):
			s.log.Error("newest head not seen", "err", err)
		default:
			s.log.Warn("newest head not seen", "err", err)
		}
		failing = err != nil
	}
}

// metrics shows the ledger's figures in Prometheus' text format, version 0.0.4.
func (s *service) metrics(w http.ResponseWriter, r *http.Request) {
	if s.api.Load() == nil {
		http.Error(w, "the database is away", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	now := s.ledger.Stats()
	halted := uint64(0)
	if s.ledger.Halted() != nil {
		halted = 1
	}
	for _, m := range []struct {
		name, kind, help string
		value            uint64
	}{
		{"scittd_log_size", "gauge", "Size of the newest head that this process has seen.", now.Size},
		{"scittd_batches_committed_total", "counter", "Batches that this process committed.", now.Committed},
		{"scittd_batches_discarded_total", "counter", "Batches that were built and beaten by another replica.", now.Discarded},
		{"scittd_turns_total", "counter", "Times that the newest head was locked to build a batch.", now.Turns},
		{"scittd_queue_entries", "gauge", "Statements that wait for the sequencer.", uint64(now.Waiting)},
		{"scittd_queue_bytes", "gauge", "Their bytes.", uint64(now.WaitingBytes)},
		{"scittd_memory_lag_entries", "gauge", "Entries that the external memory which is furthest behind does not know of.", s.outside.lag()},
		{"scittd_halted", "gauge", "1 when the log was found damaged or rolled back, and nothing is signed any more.", halted},
		{"scittd_queue_refused_total", "counter", "Statements that the queue had no room for.", now.Refused},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %d\n", m.name, m.help, m.name, m.kind, m.name, m.value)
	}
	s.refusalMetrics(w)
	s.outboxMetrics(r.Context(), w)
}
