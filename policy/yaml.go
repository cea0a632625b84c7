package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/scittd/scittd/statement"
)

// ReadYAML reads the file people write. Keys and roots are PEM text, or files
// that it names relative to itself; they are inlined, so that the Policy needs
// no file any more. A document that starts with { is the logged JSON form, where
// they are inlined already. Unknown and repeated keys, anchors and aliases are
// errors; each names file, line and column.
func ReadYAML(name string) (*Policy, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	f := file{name: name, text: b}
	if err := yaml.Load(b, &f.root); err != nil {
		return nil, f.syntax(err)
	}
	if err := f.refuseAliases(&f.root); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		if err := f.inline(); err != nil {
			return nil, err
		}
	}
	d := Defaults()
	if err := f.root.Load(&d, yaml.WithKnownFields()); err != nil {
		return nil, f.syntax(err)
	}
	p, err := New(d)
	if err != nil {
		return nil, f.semantic(err)
	}
	return p, nil
}

// file is a YAML document with its positions.
type file struct {
	name string
	text []byte
	root yaml.Node // DocumentNode
}

func (f *file) at(n *yaml.Node, err error) error {
	if n == nil {
		return fmt.Errorf("read policy: %s: %w", f.name, err)
	}
	return fmt.Errorf("read policy: %s:%d:%d: %w", f.name, n.Line, n.Column, err)
}

var unknownField = regexp.MustCompile(`^field (.*) not found in type \S+$`)

// syntax words the first error of the YAML library our way.
func (f *file) syntax(err error) error {
	var one *yaml.LoadError
	var many *yaml.LoadErrors
	if errors.As(err, &many) && len(many.Errors) > 0 {
		one = many.Errors[0]
	} else if !errors.As(err, &one) {
		return fmt.Errorf("read policy: %s: %w", f.name, err)
	}
	message := strings.TrimPrefix(one.Message, "yaml: ")
	if m := unknownField.FindStringSubmatch(message); m != nil {
		message = fmt.Sprintf("unknown key %q", m[1])
	}
	if one.Mark.Line == 0 {
		return fmt.Errorf("read policy: %s: %s", f.name, message)
	}
	return fmt.Errorf("read policy: %s:%d:%d: %s", f.name, one.Mark.Line, one.Mark.Column, message)
}

// semantic adds the position to an error that names a place in the document.
func (f *file) semantic(err error) error {
	var field *fieldError
	if !errors.As(err, &field) {
		return fmt.Errorf("read policy: %s: %w", f.name, err)
	}
	n, _ := follow(f.top(), placeSteps(field.path))
	var within *expressionError
	if errors.As(err, &within) && n != nil {
		n = f.within(n, within)
	}
	return f.at(n, err)
}

// within is where in the file a place in the text of n stands, as far as that
// can be told: text that is folded or has escapes stands where it begins.
func (f *file) within(n *yaml.Node, at *expressionError) *yaml.Node {
	found := *n
	switch {
	case n.Style&yaml.LiteralStyle != 0:
		lines := bytes.Split(f.text, []byte("\n"))
		if n.Line >= len(lines) {
			return n
		}
		first := lines[n.Line] // of the text, which is indented like it
		found.Line += at.line
		found.Column = len(first) - len(bytes.TrimLeft(first, " ")) + at.column
	case at.line == 1 && n.Style == 0:
		found.Column += at.column - 1
	case at.line == 1 && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		found.Column += at.column
	}
	return &found
}

// Line returns where a rule of the policy file stands: by its place in the
// document ("issuers[1].x509", "deny[0]") or, as answers name it, by its name
// ("release-issuers.x509"); 0 when it has no line there.
func Line(name, rule string) int {
	b, err := readFile(name)
	if err != nil {
		return 0
	}
	var root yaml.Node
	if yaml.Load(b, &root) != nil {
		return 0
	}
	f := file{name: name, root: root}
	steps := placeSteps(rule)
	if len(steps) == 0 {
		return 0
	}
	if called := calledSo(f.top(), steps[0]); called != nil {
		n, _ := follow(called, steps[1:])
		return n.Line
	}
	if n, found := follow(f.top(), steps); found {
		return n.Line
	}
	return 0
}

// placeSteps takes "issuers[1].x509" apart.
func placeSteps(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}

// follow goes down from n as far as there is something; found: one step at least.
func follow(n *yaml.Node, steps []string) (end *yaml.Node, found bool) {
	for _, step := range steps {
		next := get(n, step)
		if next == nil {
			break // the nearest that is there
		}
		n, found = next, true
	}
	return n, found
}

// calledSo is the issuer or rule that has the name.
func calledSo(top *yaml.Node, name string) *yaml.Node {
	for _, list := range []string{"issuers", "rules"} {
		for _, item := range elements(get(top, list)) {
			for _, candidate := range append([]*yaml.Node{item}, elements(get(item, "rules"))...) {
				if n := get(candidate, "name"); n != nil && n.Value == name {
					return candidate
				}
			}
		}
	}
	return nil
}

// refuseAliases: what stands in one place should mean one thing, and no more
// than its length suggests.
func (f *file) refuseAliases(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Tag == "!!merge" {
		return f.at(n, errors.New("anchors, aliases and merge keys are not allowed in a policy"))
	}
	for _, child := range n.Content {
		if err := f.refuseAliases(child); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) top() *yaml.Node {
	if len(f.root.Content) == 0 {
		return nil
	}
	return f.root.Content[0]
}

// get returns the member or element of n that step names, or nil.
func get(n *yaml.Node, step string) *yaml.Node {
	switch {
	case n == nil:
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1]
			}
		}
	case n.Kind == yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	}
	return nil
}

func elements(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// readFile reads a file no larger than what can be registered.
func readFile(name string) ([]byte, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, statement.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > statement.MaxSize {
		return nil, fmt.Errorf("%s has more than %d bytes", name, statement.MaxSize)
	}
	return b, nil
}
