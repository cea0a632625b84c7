package compat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// table collects what the tests of this process found.
var table report

// report becomes one section of docs/compat.md.
type report struct {
	mu     sync.Mutex
	engine string   // the heading: what the server says of itself
	facts  []string // how it was looked at
	rows   []row
}

type row struct{ check, found, verdict string }

// about sets the heading and adds what holds for all rows.
func (r *report) about(engine string, facts ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine, r.facts = engine, append(r.facts, facts...)
}

// add writes the row of a check when its test ends. found is asked for then.
func (r *report) add(t *testing.T, check string, found func() string) {
	begin := time.Now()
	t.Cleanup(func() {
		verdict := "PASS"
		if t.Failed() {
			verdict = "**FAIL**"
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rows = append(r.rows, row{check, found(), verdict})
		fmt.Fprintf(os.Stderr, "%v  %s: %s (%v)\n", verdict, check, found(), time.Since(begin).Round(time.Second))
	})
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s. %d cores, %s, on %s.\n\n| check | what was counted | |\n|---|---|---|\n",
		r.engine, strings.Join(r.facts, "; "), runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", row.check, row.found, row.verdict)
	}
	return b.String()
}

const preface = `# Databases that were looked at

Sections are printed by ` + "`make compat DSN=…` and `make compat-patroni`" + `, one for each engine, from the run
that its last line dates. A database that has none here may work; nobody has shown it.
`

// publish prints the section, and puts it into file unless that is "".
func (r *report) publish(file string) error {
	if r.engine == "" {
		return errors.New("no check has run")
	}
	section := r.markdown()
	fmt.Println("\n" + section)
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kept := preface
	for i, old := range strings.Split(string(text), "\n## ") {
		if i > 0 && !strings.HasPrefix(old, r.engine+"\n") {
			kept += "\n## " + strings.TrimRight(old, "\n") + "\n"
		}
	}
	return os.WriteFile(file, []byte(kept+"\n"+section), 0o666)
}
