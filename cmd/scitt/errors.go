package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/scittd/scittd/client"
	"github.com/scittd/scittd/storage"
)

// Exit codes, frozen. 10 to 16 are verdicts: retrying does not help.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitEmpty       = 3
	exitPermission  = 4
	exitNoStatement = 10
	exitNoSubject   = 11
	exitInvalid     = 12
	exitUntrusted   = 13
	exitUnmet       = 14
	exitRefused     = 16
	exitTimeout     = 17
	exitInterrupted = 130
)

const exitCodes = `Exit codes:
  0   done, verified              10  no statement or receipt for the subject
  1   I/O, network or server:     11  the subject does not exist
      retrying may help           12  a signature or receipt is invalid
  2   usage or configuration      13  issuer or service key not trusted
  3   nothing found               14  --require or --policy unmet
  4   authentication, permission  16  refused by the registration policy
  17  --wait ran out              130 interrupted`

// failure is an error with its exit code and what helps to understand it.
type failure struct {
	code  int
	err   error
	notes []note
}

// note is a further line of an error, such as "Try: ...".
type note struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code int, format string, args ...any) *failure {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

func usage(format string, args ...any) *failure { return fail(exitUsage, format, args...) }

// line adds "Name: text".
func (f *failure) line(name, format string, args ...any) *failure {
	f.notes = append(f.notes, note{name, fmt.Sprintf(format, args...)})
	return f
}

// try adds the command that would help.
func (f *failure) try(format string, args ...any) *failure { return f.line("Try", format, args...) }

// errorReport is what --format json prints of a run without another result.
type errorReport struct {
	ExitCode int    `json:"exitCode"`
	Message  string `json:"message"`
	From     string `json:"from,omitempty"` // the service, when it is its refusal
	Code     string `json:"code,omitempty"` // of its problem
	Notes    []note `json:"notes"`
}

// describe is what err means to a user, with its exit code.
func describe(err error) errorReport {
	// Errors that were joined come on several lines.
	r := errorReport{ExitCode: exitFailed, Message: strings.ReplaceAll(err.Error(), "\n", " "), Notes: []note{}}
	f := (*failure)(nil)
	if errors.As(err, &f) {
		r.ExitCode = f.code
	}
	if errors.Is(err, storage.ErrDenied) {
		r.ExitCode = exitPermission
	}
	if p := (*client.Problem)(nil); errors.As(err, &p) {
		r.ExitCode = problemCode(p, r.ExitCode)
		r.From, r.Code, r.Notes = p.Host, p.Code, problemNotes(p)
	}
	if f != nil {
		r.Notes = append(r.Notes, f.notes...)
	}
	return r
}

// exit prints err, if any, and returns the exit code that belongs to it.
func (a *app) exit(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	r := describe(err)
	if ctx.Err() != nil {
		r = errorReport{ExitCode: exitInterrupted, Message: "interrupted", Notes: []note{}}
	}
	if r.From == "" {
		a.tell("Error: %s", r.Message)
	} else {
		a.tell("Error from %s: %s", r.From, r.Message)
	}
	for _, n := range r.Notes {
		a.tell("%-6s %s", n.Name+":", n.Text)
	}
	if a.format == "json" && !a.answered {
		a.output = "" // the file was for the result
		if err := a.print("Error", r, func(io.Writer) {}); err != nil {
			a.tell("Error: %v", err)
		}
	}
	return r.ExitCode
}

// problemCode maps a service's refusal to an exit code; fallback is what the
// command thought of it.
func problemCode(p *client.Problem, fallback int) int {
	switch {
	case p.Rule != "" || p.Title == "Rejected":
		return exitRefused
	case p.Status == 401 || p.Status == 403:
		return exitPermission
	case fallback != exitFailed || p.Status == 404 || p.Status == 408 || p.Status == 429:
		return fallback
	case p.Status >= 400 && p.Status < 500:
		return exitUsage // what was asked is wrong, and stays so
	}
	return fallback
}

func problemNotes(p *client.Problem) []note {
	notes := []note{}
	add := func(name, text string) {
		if text != "" {
			notes = append(notes, note{name, text})
		}
	}
	add("Rule", p.Rule)
	if p.PolicyEntry != "" {
		add("Under", "policy "+p.PolicyEntry)
	}
	add("Entry", p.EntryID)
	add("Want", p.Hint)
	if p.RetryAfter > 0 {
		add("Retry", "in "+p.RetryAfter.String())
	}
	add("Trace", p.TraceID)
	if p.Status == 401 {
		add("Try", "add --token-file FILE, with a token of the service's operator")
	}
	return notes
}
