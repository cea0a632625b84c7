package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"time"
)

// report is everything that a run found; -json writes it. Times are in
// nanoseconds.
type report struct {
	At         time.Time       `json:"at"`
	CPU        string          `json:"cpu"`
	Cores      int             `json:"cores"`
	Load       [2]string       `json:"loadAverage"` // at the beginning and at the end
	System     string          `json:"system"`
	PostgreSQL [][2]string     `json:"postgresql"`
	Peer       string          `json:"peer"`
	Repeats    int             `json:"repeats"`
	Window     time.Duration   `json:"window"`
	Series     []*series       `json:"series"`
	Queries    []queryTimes    `json:"queries,omitempty"`
	Growth     json.RawMessage `json:"growth,omitempty"` // as growth -json writes it
	Goals      []goal          `json:"goals"`
	out        io.Writer
}

// series is one side in one shape, again and again.
type series struct {
	Side    string `json:"side"`
	Shape   shape  `json:"shape"`
	Windows []window

	side  *side
	goals []string // that need it
}

// goal is a figure and what it has to be.
type goal struct {
	Name     string  `json:"name"`
	What     string  `json:"what"`
	Is       float64 `json:"is"`
	AtLeast  bool    `json:"atLeast"` // else at most
	Must     float64 `json:"must"`
	Moonshot float64 `json:"moonshot,omitempty"`
	Verdict  string  `json:"verdict"` // MISS, PASS, MOONSHOT; - where only the moonshot is a goal
}

// atLeast and atMost add a goal; a must or a moonshot of 0: there is none.
func (r *report) atLeast(name string, is, must, moonshot float64, what string, args ...any) {
	r.goal(goal{Name: name, What: fmt.Sprintf(what, args...), Is: is, AtLeast: true, Must: must, Moonshot: moonshot},
		func(is, bound float64) bool { return is >= bound })
}

func (r *report) atMost(name string, is, must, moonshot float64, what string, args ...any) {
	r.goal(goal{Name: name, What: fmt.Sprintf(what, args...), Is: is, Must: must, Moonshot: moonshot},
		func(is, bound float64) bool { return is <= bound })
}

func (r *report) goal(g goal, meets func(is, bound float64) bool) {
	switch {
	case math.IsNaN(g.Is) || g.Must > 0 && !meets(g.Is, g.Must):
		g.Verdict = "MISS"
	case g.Moonshot > 0 && meets(g.Is, g.Moonshot):
		g.Verdict = "MOONSHOT"
	case g.Must == 0:
		g.Verdict = "-"
	default:
		g.Verdict = "PASS"
	}
	r.Goals = append(r.Goals, g)
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

// newReport prints under what conditions everything was measured.
func newReport(o options, b *bench, out io.Writer) *report {
	r := &report{
		At: time.Now().UTC().Truncate(time.Second), CPU: cpuModel(), Cores: runtime.NumCPU(), Repeats: o.repeats, Window: o.window,
		System:     fmt.Sprintf("%s %s/%s, kernel %s", runtime.Version(), runtime.GOOS, runtime.GOARCH, firstLine("/proc/sys/kernel/osrelease")),
		PostgreSQL: b.Settings, out: out,
		Peer: fmt.Sprintf("Tessera %s on a file system: batches of %d or %s, a checkpoint every %s, awaited",
			tesseraVersion, peerBatch, o.peerBatch, peerCheckpoints),
	}
	r.Load[0] = loadAverage()
	var settings []string
	for _, s := range b.Settings {
		settings = append(settings, s[0]+"="+s[1])
	}
	r.printf("# scittd bench, %s\n\n", r.At.Format(time.RFC3339))
	r.printf("- CPU: %s, %d cores, load average %s\n- %s\n", r.CPU, r.Cores, r.Load[0], r.System)
	r.printf("- PostgreSQL on loopback: %s\n- peer: %s\n", strings.Join(settings, ", "), r.Peer)
	r.printf("- statements of %d bytes, attached, ES256; %d issuers with pinned keys, %d statements a subject, %d media types; a policy in force, one bearer token, nothing placed\n",
		statementB, issuers, perSubject, mediaTypes)
	r.printf("- windows of %v after %v of warm-up, medians of %d\n\n", o.window, o.warmUp(), o.repeats)
	return r
}

const tableHead = `| side | clients | registrations/s | p50 | p99 | server CPU | PostgreSQL CPU | load generator CPU | batch | hot ES256 verify | share of verification |
|---|---|---|---|---|---|---|---|---|---|---|
`

func (r *report) table(title string, all []*series) {
	if len(all) == 0 {
		return
	}
	r.printf("## %s\n\n%s", title, tableHead)
	for _, s := range all {
		r.row(s)
	}
	r.printf("\n")
	r.Series = append(r.Series, all...)
}

func (r *report) row(s *series) {
	w := s.Windows
	postgres, batch := "-", "-"
	if s.side.batches != nil {
		postgres, batch = micros(of(w, window.postgres)), fmt.Sprintf("%.1f", of(w, window.perBatch))
	}
	r.printf("| %s | %s | %.0f | %s | %s | %s | %s | %s | %s | %s | %.2f |\n", s.Side, s.Shape, of(w, window.rate),
		micros(of(w, func(w window) time.Duration { return w.P50 })), micros(of(w, func(w window) time.Duration { return w.P99 })),
		micros(of(w, window.server)), postgres, micros(of(w, window.loader)), batch,
		micros(of(w, func(w window) time.Duration { return w.Verify })), of(w, window.verifyShare))
}

// finish prints the goals and writes the JSON.
func (r *report) finish(file string) error {
	r.Load[1] = loadAverage()
	r.printf("## Goals\n\nLoad average at the end: %s.\n\n| | figure | is | must | moonshot | |\n|---|---|---|---|---|---|\n", r.Load[1])
	for _, g := range r.Goals {
		bound := func(v float64) string {
			switch {
			case v == 0:
				return "-"
			case g.AtLeast:
				return fmt.Sprint("≥ ", v)
			}
			return fmt.Sprint("≤ ", v)
		}
		r.printf("| %s | %s | %.3g | %s | %s | %s |\n", g.Name, g.What, g.Is, bound(g.Must), bound(g.Moonshot), g.Verdict)
	}
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o666)
}

// of is the median over windows.
func of[T time.Duration | float64](windows []window, f func(window) T) T {
	var all []T
	for _, w := range windows {
		all = append(all, f(w))
	}
	return median(all)
}

func micros(d time.Duration) string {
	if d >= 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%d µs", d.Microseconds())
}

func mebi(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func loadAverage() string {
	return strings.Join(strings.Fields(firstLine("/proc/loadavg"))[:1], "")
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
