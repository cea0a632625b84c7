package checkpoint

import (
	"fmt"
	"strings"
	"testing"
)

var root = strings.Repeat("A", 43) + "="

func TestAReaderTakesWhatTheFormatSaysAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name, signed, says string
		want               Checkpoint
	}{
		{"a log's own", "scitt.example/log\n5\n" + root + "\n\n— scitt.example/log AAAA\n", "",
			Checkpoint{Origin: "scitt.example/log", Size: 5, Signatures: 1}},
		{"one that is cosigned", "a\n0\n" + root + "\n\n— a AAAA\n— b AAAA\n", "", Checkpoint{Origin: "a", Signatures: 2}},
		{"one with more to say", "a\n1\n" + root + "\nmore\n\n— a AAAA\n", "", Checkpoint{Origin: "a", Size: 1, Signatures: 1}},
		{"one without a signature", "a\n1\n" + root + "\n\n", "", Checkpoint{Origin: "a", Size: 1}},
		{"nothing", "", "not a signed note", Checkpoint{}},
		{"a text without signatures", "a\n1\n" + root + "\n", "not a signed note", Checkpoint{}},
		{"a size with a sign", "a\n+1\n" + root + "\n\n", "size invalid", Checkpoint{}},
		{"a size with leading zeros", "a\n01\n" + root + "\n\n", "not written as it has to be", Checkpoint{}},
		{"a size beyond 64 bits", "a\n18446744073709551616\n" + root + "\n\n", "size invalid", Checkpoint{}},
		{"a root with loose bits", "a\n1\n" + strings.Repeat("A", 42) + "B=\n\n", "not written as it has to be", Checkpoint{}},
		{"a short root", "a\n1\nAAAA\n\n", "a root of 3 bytes", Checkpoint{}},
		{"no origin", "\n1\n" + root + "\n\n", "empty origin", Checkpoint{}},
	} {
		got, err := Parse([]byte(c.signed))
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %q", c.name, err, c.says)
			}
			continue
		}
		if end := strings.LastIndex(c.signed, "\n\n"); err == nil && got.Text != c.signed[:end+1] {
			t.Errorf("%s: the text is %q", c.name, got.Text)
		}
		if got.Text = ""; err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"scitt.example/log\n5\n" + root + "\n\n— scitt.example/log AAAA\n",
		"a\n18446744073709551615\n" + root + "\nextension\n\n— a b\n— c d\n", "", "\n\n", "a\n1\n" + root + "\n", "a\n-1\n" + root + "\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		if c.Origin == "" || strings.Contains(c.Origin, "\n") || c.Signatures < 0 || !strings.HasPrefix(c.Text, fmt.Sprintf("%s\n%d\n", c.Origin, c.Size)) {
			t.Fatalf("%q is read as %+v", b, c)
		}
	})
}
