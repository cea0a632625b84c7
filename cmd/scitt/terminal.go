package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"
)

// tell writes one line to standard error.
func (a *app) tell(format string, args ...any) {
	fmt.Fprintln(a.stderr, clean(fmt.Sprintf(format, args...)))
}

func (a *app) warn(format string, args ...any) {
	if !a.quiet {
		a.tell("warning: "+format, args...)
	}
}

// say is for those who asked with -v.
func (a *app) say(format string, args ...any) {
	if a.verbose && !a.quiet {
		a.tell(format, args...)
	}
}

// confirm asks on the terminal; without one, --yes must have been given.
func (a *app) confirm(question string) error {
	if a.yes {
		return nil
	}
	if !isTerminal(a.stdin) {
		return usage("%s There is no terminal to ask on", question).try("add --yes, or run it on a terminal")
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if !slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))) {
		return fail(exitFailed, "nothing was done")
	}
	return nil
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// meter shows how an upload is getting on: one line that renews itself on a
// terminal, never under CI; else, for those who asked with -v, a plain line now
// and then.
type meter struct {
	io.ReadCloser
	name        string
	done, total int64
	started     time.Time
	shown       time.Time
	every       time.Duration
	line        func(text string) // nil: silent
	clear       func()
	now         func() time.Time
}

// metered puts a meter on an upload.
func (a *app) metered(r io.ReadCloser, name string, total int64) io.ReadCloser {
	m := &meter{ReadCloser: r, name: name, total: total, now: time.Now, clear: func() {}}
	m.started, m.shown = m.now(), m.now()
	switch {
	case a.quiet:
	case isTerminal(a.stderr) && a.env("CI") == "":
		m.every = 200 * time.Millisecond
		m.line = func(text string) { fmt.Fprintf(a.stderr, "\r%-78.78s", clean(text)) }
		m.clear = func() { fmt.Fprintf(a.stderr, "\r%-78s\r", "") }
	case a.verbose:
		m.every = 10 * time.Second
		m.line = func(text string) { a.tell("%s", text) }
	}
	return m
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.done += int64(n)
	if now := m.now(); m.line != nil && now.Sub(m.shown) >= m.every {
		m.shown = now
		m.line(m.String())
	}
	return n, err
}

func (m *meter) Close() error {
	m.clear()
	return m.ReadCloser.Close()
}

// String is bytes, rate and what is left of the time.
func (m *meter) String() string {
	text := fmt.Sprintf("%s  %s of %s", m.name, human(m.done), human(m.total))
	if seconds := m.shown.Sub(m.started).Seconds(); seconds > 0 && m.done > 0 {
		rate := float64(m.done) / seconds
		left := time.Duration(float64(m.total-m.done) / rate * float64(time.Second))
		text += fmt.Sprintf("  %s/s  %s left", human(int64(rate)), left.Round(time.Second))
	}
	return text
}
