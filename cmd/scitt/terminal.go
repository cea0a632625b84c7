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

// display is how progress is shown: one line that renews itself on a terminal,
// never under CI; else, for those who asked with -v, a plain line now and then.
// A nil line shows nothing; clear takes the last one off the terminal.
func (a *app) display() (every time.Duration, line func(text string), clear func()) {
	clear = func() {}
	switch {
	case a.quiet:
	case isTerminal(a.stderr) && a.env("CI") == "":
		every = 200 * time.Millisecond
		line = func(text string) { fmt.Fprintf(a.stderr, "\r%-78.78s", clean(text)) }
		clear = func() { fmt.Fprintf(a.stderr, "\r%-78s\r", "") }
	case a.verbose:
		every = 10 * time.Second
		line = func(text string) { a.tell("%s", text) }
	}
	return every, line, clear
}

// left is how much longer a task takes that has come this far in so long.
func left(done, total int64, took time.Duration) time.Duration {
	return time.Duration(float64(total-done) / float64(done) * float64(took)).Round(time.Second)
}

// meter shows how an upload is getting on.
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
	m := &meter{ReadCloser: r, name: name, total: total, now: time.Now}
	m.started, m.shown = m.now(), m.now()
	m.every, m.line, m.clear = a.display()
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
	if took := m.shown.Sub(m.started); took > 0 && m.done > 0 {
		text += fmt.Sprintf("  %s/s  %s left", human(int64(float64(m.done)/took.Seconds())), left(m.done, m.total, took))
	}
	return text
}

// counter shows how many statements of many have their outcome: at the
// beginning, now and then, and in the end.
type counter struct {
	done, failed, total int
	started             time.Time
	shown               time.Time
	every               time.Duration
	line                func(text string) // nil: silent
	clear               func()
	now                 func() time.Time
}

func (a *app) counted(total int) *counter {
	c := &counter{total: total, now: time.Now}
	c.started = c.now()
	c.every, c.line, c.clear = a.display()
	c.show(0)
	return c
}

func (c *counter) add(good bool) {
	c.done++
	if !good {
		c.failed++
	}
	c.show(c.every)
}

func (c *counter) close() {
	c.show(0)
	c.clear()
}

// show shows the state unless it was shown within the last while.
func (c *counter) show(while time.Duration) {
	if now := c.now(); c.line != nil && now.Sub(c.shown) >= while {
		c.shown = now
		c.line(c.String())
	}
}

// String is how many are done, how many of them failed, the rate and what is
// left of the time.
func (c *counter) String() string {
	text := fmt.Sprintf("%d of %d statements", c.done, c.total)
	if c.failed > 0 {
		text += fmt.Sprintf(", %d failed", c.failed)
	}
	if took := c.shown.Sub(c.started); took > 0 && c.done > 0 {
		text += fmt.Sprintf("  %.0f/s  %s left", float64(c.done)/took.Seconds(), left(int64(c.done), int64(c.total), took))
	}
	return text
}
