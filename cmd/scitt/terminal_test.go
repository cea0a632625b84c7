package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestWhatCannotBeSeenIsEscaped(t *testing.T) {
	for in, want := range map[string]string{
		"plain, größer, 日本":      "plain, größer, 日本",
		"\x1b[31mred":            `\u001b[31mred`,
		"a\nb\r\tc\x00\x7f":      `a\u000ab\u000d\u0009c\u0000\u007f`,
		"\u0085\u009b1m":         `\u0085\u009b1m`, // C1: a second way to write ESC [
		"\u202eevil\u2066\u200b": `\u202eevil\u2066\u200b`,
		"\ufeff\u00ad\u2028":     `\ufeff\u00ad\u2028`,
		"\U000e0041":             `\udb40\udc41`, // a tag character
		"bad \xff utf-8":         "bad \ufffd utf-8",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) is %q, want %q", in, got, want)
		}
	}
	if got := escape("a\n\x1b", '\n'); got != "a\n"+`\u001b` {
		t.Errorf("with newline allowed: %q", got)
	}
}

func TestAnUploadShowsBytesRateAndWhatIsLeft(t *testing.T) {
	clock := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var lines []string
	cleared := 0
	m := &meter{
		ReadCloser: io.NopCloser(strings.NewReader(strings.Repeat("x", 4096))), name: "sbom.json", total: 4096,
		every: 10 * time.Second, line: func(text string) { lines = append(lines, text) }, clear: func() { cleared++ },
		now: func() time.Time { return clock }, started: clock, shown: clock,
	}
	for range 4 { // 1 KiB in 5 s each
		clock = clock.Add(5 * time.Second)
		if _, err := io.ReadFull(m, make([]byte, 1024)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"sbom.json  2.0 KiB of 4.0 KiB  204 B/s  10s left", "sbom.json  4.0 KiB of 4.0 KiB  204 B/s  0s left"}
	if strings.Join(lines, "|") != strings.Join(want, "|") || cleared != 1 {
		t.Errorf("showed %q and cleared %d times, want %q, once", lines, cleared, want)
	}
}

func TestWithoutATerminalProgressIsForThoseWhoAsk(t *testing.T) {
	for _, c := range []struct {
		app  app
		want bool
	}{{app{}, false}, {app{verbose: true}, true}, {app{verbose: true, quiet: true}, false}} {
		c.app.process = process{env: func(string) string { return "" }, stderr: io.Discard}
		m := c.app.metered(io.NopCloser(strings.NewReader("")), "f", 0).(*meter)
		if (m.line != nil) != c.want {
			t.Errorf("verbose %t, quiet %t: shows %t, want %t", c.app.verbose, c.app.quiet, m.line != nil, c.want)
		}
	}
}
