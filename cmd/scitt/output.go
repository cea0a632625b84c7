package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"
)

const templatePrefix = "go-template="

func (a *app) checkFormat(command string) error {
	if a.output == "json" || a.output == "text" {
		return usage("-o names a file; did you mean --format %s?", a.output)
	}
	text, isTemplate := strings.CutPrefix(a.format, templatePrefix)
	switch {
	case a.format == "text" || a.format == "json" || a.format == diagnostic && command == "inspect":
		return nil
	case !isTemplate:
		return usage("--format %q is none of text, json, go-template=TEMPLATE; inspect has %s, too", a.format, diagnostic)
	}
	var err error
	if a.template, err = template.New("format").Parse(text); err != nil {
		return usage("--format: %w", err)
	}
	return nil
}

// document is what --format json prints: one for every run.
type document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Data       any    `json:"data"`
}

// print writes a result where -o says: text by the function, else data.
func (a *app) print(kind string, data any, text func(io.Writer)) error {
	result, err := a.render(kind, data, text)
	if err != nil {
		return err
	}
	return a.write(result)
}

// report is print to standard output, for commands whose -o file holds
// something else; about that, this is the report. With -o - there is none.
func (a *app) report(kind string, data any, text func(io.Writer)) error {
	if a.output == "-" {
		return nil
	}
	result, err := a.render(kind, data, text)
	if err != nil {
		return err
	}
	a.answered = true
	_, err = a.stdout.Write(result)
	return err
}

// write puts a result where -o says.
func (a *app) write(result []byte) error {
	a.answered = true
	if a.output == "" || a.output == "-" {
		_, err := a.stdout.Write(result)
		return err
	}
	return os.WriteFile(a.output, result, 0o644)
}

// save puts a command's product where -o says, or into the file of that name,
// and returns the file, "" for standard output.
func (a *app) save(product []byte, name string) (string, error) {
	if a.output == "-" {
		return "", a.write(product)
	}
	if a.output != "" {
		name = a.output
	}
	return name, os.WriteFile(name, product, 0o644)
}

func (a *app) render(kind string, data any, text func(io.Writer)) ([]byte, error) {
	var b strings.Builder
	doc := document{"scittd/v1", kind, data}
	switch {
	case a.template != nil:
		// Templates see the JSON names, not Go's.
		raw, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		var plain any
		if err := json.Unmarshal(raw, &plain); err != nil {
			return nil, err
		}
		if err := a.template.Execute(&b, plain); err != nil {
			return nil, usage("--format: %w", err)
		}
		return []byte(escape(b.String(), '\n', '\t') + "\n"), nil
	case a.format == "json":
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(doc); err != nil {
			return nil, err
		}
		// Only strings can hold such characters, where the escape means the same.
		return []byte(escape(b.String(), '\n')), nil
	}
	text(&b)
	return []byte(b.String()), nil
}

// clean makes a stranger's text harmless on one line of a terminal.
func clean(s string) string { return escape(s) }

// escape shows control characters, escape sequences, bidirectional overrides
// and whatever else cannot be seen as JSON would escape them.
func escape(s string, allowed ...rune) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case unicode.IsPrint(r) || strings.ContainsRune(string(allowed), r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// human prints a size for people.
func human(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.print("Version", map[string]string{"version": version()}, func(w io.Writer) {
				fmt.Fprintln(w, version())
			})
		},
	}
}

// version is the module version that the binary was built from.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
