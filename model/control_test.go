//go:build spin

package model

import (
	"fmt"
	"strings"
	"testing"
)

// controls are records of what a bug would do: the model has no such history, but
// it has as soon as it is given that bug. So they are refused for what they show,
// and not for how they are written.
var controls = []struct{ bug, record string }{
	{"RELEASE_BEFORE_COMMIT", `
		0 loads 1 · 1 loads 1 · A to 0
		0 turns 1 · 0 signs · A is 1 under 2 · 0 commits A0 at 1`},
	{"RELEASE_BEFORE_COMMIT", `
		0 loads 1 · 1 loads 1 · A to 0
		0 turns 1 · 0 signs · 0 calls · A is 1 under 2 · 0 dies · 0 loads 1`},
	{"UNKNOWN_IS_SUCCESS", `
		0 loads 1 · 1 loads 1 · A to 0
		0 turns 1 · 0 signs · 0 doubts A0 at 1 · A is 1 under 2`},
	{"UNKNOWN_IS_SUCCESS", `
		0 loads 1 · 1 loads 1 · A to 0 · B to 0
		0 turns 1 · 0 signs · 0 doubts A0 at 1 · 0 signs · 0 conflicts B0 at 2`},
	{"NO_COMPARE_AND_SWAP", `
		0 loads 1 · 1 loads 1 · A to 0 · B to 1
		0 signs · 1 signs · 0 commits A0 at 1 · 1 commits B0 at 1`},
	{"HEADS_UNIQUE_BY_SIZE_ONLY", `
		0 loads 1 · 1 loads 1 · A to 0 · B to 1 · P to 1
		0 signs · 1 signs · 0 commits A0 at 1 · 1 commits B0P0 at 1`},
	{"ENTRY_ID_NOT_UNIQUE", `
		0 loads 1 · 1 loads 1 · A to 0 · A to 1
		0 signs · 0 commits A0 at 1 · A is 1 under 2 · 1 turns 2 · 1 signs · 1 commits A0 at 2`},
	{"TREE_GROWN_IN_PLACE", `
		0 loads 1 · 1 loads 1 · A to 0
		0 signs · 0 fails A0 at 1 · 0 signs · 0 commits A0 at 1`},
	{"RECEIPT_UNDER_NEWEST_HEAD", `
		0 loads 1 · 1 loads 1 · A to 0 · B to 0 · A to 0
		0 signs · 0 commits A0 at 1 · 0 signs · 0 commits B0 at 2 · A is 1 under 3`},
	{"POLICY_NOT_JUDGED_AGAIN", `
		0 loads 1 · 1 loads 1 · P to 0 · B to 1
		0 signs · 0 commits P0 at 1 · 1 turns 2 · 1 signs · 1 commits B0 at 2`},
	{"POLICY_LEAVES_BATCH_OPEN", `
		0 loads 1 · 1 loads 1 · P to 0 · A to 0
		0 signs · 0 commits P0A0 at 1`},
	{"POLICY_IN_FORCE_BEFORE_COMMIT", `
		0 loads 1 · 1 loads 1 · P to 0 · B to 0 · B to 1
		0 signs · 0 fails P0 at 1 · B is refused · 1 signs · 1 commits B0 at 1`},
	{"REFUSED_WITHOUT_LOOKUP", `
		0 loads 1 · 1 loads 1 · B to 1 · P to 1 · B to 0
		1 signs · 1 commits B0 at 1 · 1 signs · 1 commits P0 at 2 · 0 turns 3 · B is refused`},
	{"TURN_IN_PLACE_OF_SWAP", `
		0 loads 1 · 1 loads 1 · A to 1 · B to 0
		0 turns 1 · 0 signs · 1 signs · 1 commits A0 at 1 · 0 commits B0 at 1`},
}

func TestWhatABugWouldDoIsRefused(t *testing.T) {
	model := newJudge(t, "")
	for _, c := range controls {
		record := parse(t, c.record)
		if model.accepts(t, record) {
			t.Errorf("%s: the model has this history:%s", c.bug, c.record)
		}
		if !newJudge(t, c.bug).accepts(t, record) {
			t.Errorf("%s: not even with the bug there is this history:%s", c.bug, c.record)
		}
	}
}

// parse reads a record as event.String writes it. A call that only its return
// names begins right before it.
func parse(t *testing.T, text string) []event {
	t.Helper()
	var record []event
	called := map[int]bool{}
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '·' }) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		e := read(line)
		if e.what == returns && !called[e.who] {
			record = append(record, event{calls, e.who, 0})
		}
		called[e.who] = e.what == calls || called[e.who] && e.what != returns && e.what != dies
		if record = append(record, e); e.String() != line {
			t.Fatalf("%q is read as %q", line, e)
		}
	}
	return record
}

func read(line string) event {
	word := strings.Fields(line)
	number := func(s string) (n int) {
		fmt.Sscan(s, &n)
		return n
	}
	kinds := map[string]int{"loads": loads, "turns": turns, "commits": commits, "conflicts": conflicts, "finds": finds, "fails": fails, "doubts": doubts}
	switch word[1] {
	case "calls":
		return event{calls, number(word[0]), 0}
	case "signs":
		return event{signs, number(word[0]), 0}
	case "dies":
		return event{dies, number(word[0]), 0}
	case "loads", "turns":
		return event{returns, number(word[0]), step(kinds[word[1]], number(word[2]))}
	case "to":
		return event{asks, number(word[2]), strings.Index(" ABP", word[0])}
	case "is":
		who := strings.Index(" ABP", word[0])
		if word[2] == "refused" {
			return event{refused, who, 0}
		}
		return event{registered, who, number(word[2])*8 + number(word[4])}
	}
	batch := 0
	for i := 0; i+1 < len(word[2]); i += 2 {
		batch |= (strings.IndexByte(" ABP", word[2][i]) + 4*int(word[2][i+1]-'0')) << (3 * i / 2)
	}
	return event{returns, number(word[0]), step(kinds[word[1]], number(word[4])*512+batch)}
}
