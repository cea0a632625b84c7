package main

import (
	"encoding/json"
	"os"
	"time"
)

// Sized is what -json writes of a log of one size. Bytes are per entry, times in
// nanoseconds.
type Sized struct {
	Entries uint64             `json:"entries"`
	Commit  time.Duration      `json:"postgresCPU"` // of a commit, per entry
	Bytes   map[string]float64 `json:"bytes"`       // by table, indexes included
	AllIn   float64            `json:"allIn"`       // beyond the statement
	Bounded float64            `json:"bounded"`     // the same, without deliveries and audit
	P50     map[string]int64   `json:"p50"`         // by what is asked
	P99     map[string]int64   `json:"p99"`
}

func writeJSON(file string, o options, at []figures) error {
	var all []Sized
	for _, f := range at {
		s := Sized{
			Entries: f.size, Commit: f.commit, AllIn: -float64(o.bytes), Bounded: -float64(o.bytes),
			Bytes: map[string]float64{}, P50: map[string]int64{}, P99: map[string]int64{},
		}
		for _, r := range f.tables {
			if r.index {
				continue
			}
			per := float64(r.total) / float64(f.size)
			s.Bytes[r.name] = per
			s.AllIn += per
			if r.name != "audit" && r.name != "deliveries" {
				s.Bounded += per
			}
		}
		for _, t := range f.times {
			s.P50[t.name], s.P99[t.name] = int64(t.p50), int64(t.p99)
		}
		all = append(all, s)
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o666)
}
