//go:build spin

// Package model holds the ledger's code against the model beside it: what a
// replica is seen to do, with others and with faults, has to be a history of
// ledger.pml. README.md says what is recorded and how it is judged.
package model

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/scittd/scittd/internal/testenv"
)

// What trace.pml calls an event of a record, and a step of a replica.
const (
	calls = 1 + iota
	returns
	signs
	dies
	registered
	refused
	asks
)

const (
	loads = 1 + iota
	turns // loads, with others kept from committing
	commits
	conflicts
	finds // that some of the batch is there already
	fails
	doubts
)

// event is a line of a record. Who is a replica, or the statement that somebody
// is answered about.
type event struct{ what, who, value int }

func step(kind, n int) int { return kind*4096 + n }

func (e event) String() string {
	switch e.what {
	case calls:
		return fmt.Sprintf("%d calls", e.who)
	case returns:
		kind, n := e.value/4096, e.value%4096
		name := []string{"", "loads", "turns", "commits", "conflicts", "finds", "fails", "doubts"}[kind]
		if kind == loads || kind == turns {
			return fmt.Sprintf("%d %s %d", e.who, name, n)
		}
		batch := ""
		for rows := n % 512; rows > 0; rows >>= 3 {
			batch += fmt.Sprintf("%c%d", " ABP"[rows&3], rows>>2&1)
		}
		return fmt.Sprintf("%d %s %s at %d", e.who, name, batch, n/512)
	case signs:
		return fmt.Sprintf("%d signs", e.who)
	case dies:
		return fmt.Sprintf("%d dies", e.who)
	case registered:
		return fmt.Sprintf("%c is %d under %d", " ABP"[e.who], e.value/8, e.value%8)
	case refused:
		return fmt.Sprintf("%c is refused", " ABP"[e.who])
	case asks:
		return fmt.Sprintf("%c to %d", " ABP"[e.value], e.who)
	}
	return fmt.Sprintf("%#v", e)
}

// notes are the steps that ledger.pml prints, each with the note that trace.pml
// takes of it instead.
var notes = [][2]string{
	{`printf("replica %d: loads the head of size %d\n", r, size)`, `makes(r, step(turning -> TAKES : LOADS, size))`},
	{"\t\tload();\n", "\t\tturning = true; load(); turning = false;\n"},
	{`printf("replica %d: signs a head of size %d\n", r, prev + rows(entries))`, `draws(r)`},
	{`printf("replica %d: commits\n", r)`, `ends(r, COMMITS)`},
	{`printf("replica %d: conflict\n", r)`, `ends(r, CONFLICTS)`},
	{`printf("replica %d: some of it is there already\n", r)`, `ends(r, FINDS)`},
	{`printf("replica %d: the commit has failed\n", r)`, `ends(r, FAILS)`},
	{`printf("replica %d: the commit ends in an unknown outcome\n", r)`, `ends(r, DOUBTS)`},
	{`printf("replica %d: crashes\n", r)`, `dead(r)`},
	{`printf("client: submits %c to replica %d\n", letter(id), r)`, `queues(r)`},
	{"head[1] = LEAF0;\n", "head[1] = LEAF0;\nc_code { readRecord(); };\nlook();\nrun Observer() priority 10;\n"},
	// A crash of an idle replica, which the model leaves out.
	{"nempty(queue[r]);\n", "nempty(queue[r]) || what == DIES && who == r;\n"},
	// A policy seen by reading, which nobody does here.
	{`tries > 0 && current[0] == OLD && index[P] != 0 -> current[0] = NEW`, `false`},
	{`tries > 0 && current[1] == OLD && index[P] != 0 -> current[1] = NEW`, `false`},
	// Which replica hears of A first is for the record to say.
	{`:: s == A -> d_step { current[0] != DOWN -> id = s; submit(0) }`, `:: s == A`},
}

// bounds are more than any record needs.
var bounds = []string{
	"-DTURNS=1", "-DCOURIERS=0", "-DTRIES_A=3", "-DTRIES_B=2", "-DTRIES_P=2", "-DCRASHES=1", "-DFAULTS=6", "-DOVERTIMES=4",
}

// judge is the search program for records, of the model or of one with a bug.
type judge string

// newJudge builds one.
func newJudge(t *testing.T, bug string) judge {
	t.Helper()
	model, err := os.ReadFile("ledger.pml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(model)
	for _, n := range notes {
		if got := strings.Count(text, n[0]); got != 1 {
			t.Fatalf("ledger.pml has %q %d times, want once", n[0], got)
		}
		text = strings.Replace(text, n[0], n[1], 1)
	}
	frame, err := filepath.Abs("trace.pml")
	if err != nil {
		t.Fatal(err)
	}
	include := fmt.Sprintf("#include %q\n", frame)
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "judge.pml"), []byte(include+text+include), 0o600); err != nil {
		t.Fatal(err)
	}
	define := bounds
	if bug != "" {
		define = append(slices.Clone(bounds), "-D"+bug)
	}
	for _, tool := range [][]string{
		append(append([]string{"spin", "-o1", "-a"}, define...), "judge.pml"),
		{"gcc", "-O1", "-w", "-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE", "-DMEMLIM=2048", "-o", "pan", "pan.c"},
	} {
		c := exec.Command(tool[0], tool[1:]...)
		c.Dir = work
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v; model/run installs what is missing\n%s", tool[0], err, out)
		}
	}
	return judge(filepath.Join(work, "pan"))
}

// accepts says whether the record is of a history of the model. Broken
// invariants are for model/run to find, so they end no search here.
func (j judge) accepts(t *testing.T, record []event) bool {
	t.Helper()
	var lines bytes.Buffer
	for _, e := range record {
		fmt.Fprintln(&lines, e.what, e.who, e.value)
	}
	c := exec.Command(string(j), "-A", "-E", "-m10000", "-w18", "-Q1")
	c.Dir, c.Stdin = t.TempDir(), &lines
	out, err := c.CombinedOutput()
	switch report := string(out); {
	case strings.Contains(report, "pan:1: end state in claim reached"):
		return true
	case err == nil && strings.Contains(report, "errors: 0\n") && !strings.Contains(report, "max search depth too small") && !strings.Contains(report, "not completed"):
		return false
	}
	t.Fatalf("no verdict on %s: %v\n%s", told(record), err, out)
	return false
}

func TestMain(m *testing.M) { testenv.Main(m) }
