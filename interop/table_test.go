package interop

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// theTable is what the tests of this process found.
var theTable table

// table becomes docs/interop.md.
type table struct {
	mu       sync.Mutex
	about    []string       // what the programs say of themselves
	outcomes map[cell]error // absent: not tried
}

type cell struct{ client, operation, backend string }

// tell adds a line about a program that took part, once.
func (t *table) tell(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.about, line) {
		t.about = append(t.about, line)
	}
}

// add notes what became of an operation.
func (t *table) add(c cell, outcome error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outcomes == nil {
		t.outcomes = map[cell]error{}
	}
	t.outcomes[c] = outcome
}

const preface = `# Clients and registries that were tried

` + "Printed by `make interop`" + `: the clients people have, through scittd's front, before each of these registries. Whatever is not
here may work; nobody has shown it. A cell is what happened in the run that the last line dates; a number is a reason below.

`

func (t *table) markdown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	b.WriteString(preface + "| client | |")
	for _, backend := range backends {
		fmt.Fprintf(&b, " %s |", backend.name)
	}
	fmt.Fprintf(&b, "\n|---|---|%s\n", strings.Repeat("---|", len(backends)))
	var reasons []string
	for _, c := range clients {
		name := c.name
		for _, step := range c.steps {
			fmt.Fprintf(&b, "| %s | %s |", name, step.operation)
			name = "" // stands above
			for _, backend := range backends {
				err, tried := t.outcomes[cell{c.name, step.operation, backend.name}]
				switch {
				case !tried:
					b.WriteString(" – |")
				case err == nil:
					b.WriteString(" yes |")
				default:
					why := reason(err)
					if !slices.Contains(reasons, why) {
						reasons = append(reasons, why)
					}
					fmt.Fprintf(&b, " **no** (%d) |", slices.Index(reasons, why)+1)
				}
			}
			b.WriteString("\n")
		}
	}
	if len(reasons) > 0 {
		b.WriteString("\n")
	}
	for i, why := range reasons {
		fmt.Fprintf(&b, "%d. %s\n", i+1, why)
	}
	slices.Sort(t.about)
	fmt.Fprintf(&b, "\n%s.\n\n%d cores, %s, on %s.\n", strings.Join(t.about, "; "), runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	return b.String()
}

var changing = regexp.MustCompile(`(localhost|127\.0\.0\.1):[0-9]+|sha256:[0-9a-f]{64}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z?|[0-9a-f]{8}-[0-9a-f-]{27}`)

// reason is an error in one line, without what changes from run to run.
func reason(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	text = changing.ReplaceAllStringFunc(text, func(s string) string {
		if strings.HasPrefix(s, "sha256:") {
			return "sha256:…"
		}
		return "…"
	})
	text = strings.ReplaceAll(text, "|", "\\|")
	if r := []rune(text); len(r) > 400 {
		text = string(r[:400]) + "…"
	}
	return text
}

// publish prints the table, and puts it into file unless that is "".
func (t *table) publish(file string) error {
	text := t.markdown()
	fmt.Println("\n" + text)
	if file == "" {
		return nil
	}
	return os.WriteFile(file, []byte(text), 0o666)
}
