package witness_test

import (
	"crypto/rand"
	"fmt"
	"math/bits"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/witness"
)

// keys makes n cosignature keys and their signers.
func keys(t testing.TB, n int) (signers []note.Signer, vkeys []string) {
	t.Helper()
	for i := range n {
		s, vkey := signer(t, fmt.Sprintf("witness.example/%d", i+1))
		signers, vkeys = append(signers, s), append(vkeys, vkey)
	}
	return signers, vkeys
}

func TestQuorumIsWhatThePolicySays(t *testing.T) {
	l := newLog(t, 10)
	signers, vkeys := keys(t, 5)
	lines := ""
	for i, vkey := range vkeys {
		lines += fmt.Sprintf("witness w%d %s\n", i+1, vkey)
	}
	signed := checkpointOf(t, l)
	text := signed[:strings.Index(string(signed), "\n\n")+1]
	const w1, w2, w3, w4, w5 = 1, 2, 4, 8, 16
	for _, c := range []struct {
		quorum string
		met    func(set int) bool
	}{
		{"quorum none", func(int) bool { return true }},
		{"quorum w2", func(set int) bool { return set&w2 != 0 }},
		{"group g any w1 w2\nquorum g", func(set int) bool { return set&(w1|w2) != 0 }},
		{"group g all w1 w2 w3\nquorum g", func(set int) bool { return set&7 == 7 }},
		{"group g 2 w1 w2 w3\nquorum g", func(set int) bool { return bits.OnesCount(uint(set&7)) >= 2 }},
		{"group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup z all x y\nquorum z", func(set int) bool {
			return bits.OnesCount(uint(set&7)) >= 2 && set&(w4|w5) != 0
		}},
	} {
		p, err := witness.ParsePolicy([]byte(lines + c.quorum + "\n"))
		if err != nil {
			t.Fatalf("%q: %v", c.quorum, err)
		}
		if p.None() != c.met(0) {
			t.Errorf("%q: None is %t", c.quorum, p.None())
		}
		for set := range 1 << len(signers) {
			cosigned := string(signed)
			for i, s := range signers {
				if set>>i&1 == 1 {
					cosigned += lineOver(t, s, text)
				}
			}
			cp, err := p.Open([]byte(cosigned), l.Verifier)
			if (err == nil) != c.met(set) {
				t.Errorf("%q with cosignatures %05b: %v", c.quorum, set, err)
			}
			if err == nil && (cp.Origin != origin || cp.Size != 10 || len(cp.Witnesses) != bits.OnesCount(uint(set))) {
				t.Errorf("%q with cosignatures %05b: %+v", c.quorum, set, cp)
			}
		}
	}
}

func TestOpenWantsTheLogsSignature(t *testing.T) {
	l, other := newLog(t, 10), newLog(t, 10)
	_, vkeys := keys(t, 1)
	text := "witness w1 " + vkeys[0] + "\nquorum none\n"
	unnamed, err := witness.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	signed := checkpointOf(t, l)
	for _, c := range []struct {
		name string
		log  note.Verifier
		ok   bool
	}{{"its own key", l.Verifier, true}, {"another key", other.Verifier, false}, {"no key", nil, false}} {
		if _, err := unnamed.Open(signed, c.log); (err == nil) != c.ok {
			t.Errorf("with %s: %v", c.name, err)
		}
	}
	if _, err := unnamed.Open([]byte("\n\n"), l.Verifier); err == nil {
		t.Error("an empty note is taken for a checkpoint")
	}
}

func TestPolicyNamesItsLogs(t *testing.T) {
	_, _, vkey := plainKey(t, origin)
	p, err := witness.ParsePolicy([]byte("# a comment\n\n \t# another\nlog\t" + vkey + "  https://scitt.example/log\nquorum none"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(checkpointOf(t, newLog(t, 3)), nil); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("a checkpoint of another key: %v", err)
	}
}

func plainKey(t testing.TB, name string) (note.Signer, note.Verifier, string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, v, vkey
}

func TestPolicyThatCannotBeMeantIsRefused(t *testing.T) {
	_, vkeys := keys(t, 2)
	_, _, plain := plainKey(t, origin)
	a, b := "witness a "+vkeys[0]+"\n", "witness b "+vkeys[1]+"\n"
	many := ""
	for i := range 65 {
		_, more := keys(t, 1)
		many += fmt.Sprintf("witness w%d %s\n", i, more[0])
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "no quorum"},
		{"no quorum", a, "no quorum"},
		{"two quorums", a + "quorum a\nquorum a\n", "line 3: a second quorum"},
		{"quorum above its name", "quorum a\n" + a, "line 1: nothing above is called"},
		{"unknown keyword", "wittness a b\n", "line 1"},
		{"name twice", a + "witness a " + vkeys[1] + "\n", "line 2: the name"},
		{"reserved name", "witness none " + vkeys[0] + "\n", "line 1: the name"},
		{"key twice", a + "witness b " + vkeys[0] + "\n", "listed twice"},
		{"log twice", "log " + plain + "\nlog " + plain + " https://a.example\n", "listed twice"},
		{"log with a witness's key", "log " + vkeys[0] + "\n", "line 1: log"},
		{"witness with a log's key", "witness a " + plain + "\n", "type 1"},
		{"witness without key", "witness a\n", "line 1: witness with 1 items"},
		{"witness with too much", "witness a " + vkeys[0] + " https://a.example more\n", "with 4 items"},
		{"witness without host", "witness a " + vkeys[0] + " a.example\n", "not an http(s) URL"},
		{"empty group", a + "group g all\n", "group with 2 items"},
		{"threshold 0", a + "group g 0 a\n", "threshold"},
		{"threshold above", a + b + "group g 3 a b\n", "threshold"},
		{"threshold in words", a + "group g most a\n", "threshold"},
		{"member that is not there", a + "group g any a b\n", "nothing above is called"},
		{"group in itself", a + "group g any a g\n", "nothing above is called"},
		{"none as member", a + "group g any a none\n", "nothing above is called"},
		{"member twice", a + "group g 2 a a\n", "in a group already"},
		{"member of two groups", a + b + "group g any a\ngroup h any a b\n", "in a group already"},
		{"carriage returns", a + "quorum a\r\n", "control characters"},
		{"65 witnesses", many + "quorum w0\n", "more than 64"},
		{"too long", strings.Repeat("#\n", 1<<20), "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := witness.ParsePolicy([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParsePolicy: %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzPolicyIsReadOrRefused(f *testing.F) {
	_, vkeys := keys(f, 2)
	f.Add([]byte("witness a " + vkeys[0] + " https://a.example\nwitness b " + vkeys[1] + "\ngroup g 1 a b\nquorum g\n"))
	f.Add([]byte("quorum none"))
	f.Add([]byte("log a+b+c\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := witness.ParsePolicy(text)
		if (p == nil) == (err == nil) {
			t.Fatalf("policy %v and error %v", p, err)
		}
		if err == nil && len(p.Witnesses) > 64 {
			t.Fatalf("%d witnesses", len(p.Witnesses))
		}
	})
}
