package policy

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/scittd/scittd/internal/cose"
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
	f := file{name: name}
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
	n := f.top()
	for _, step := range strings.FieldsFunc(field.path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		next := get(n, step)
		if next == nil {
			break // the nearest that is there
		}
		n = next
	}
	return f.at(n, err)
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

// inline replaces every key and root by the text that the logged form has.
func (f *file) inline() error {
	for _, list := range []string{"operators", "issuers"} {
		for _, item := range elements(get(f.top(), list)) {
			if err := f.inlineKey(get(item, "key")); err != nil {
				return err
			}
			if err := f.inlineRoots(get(get(item, "x509"), "roots")); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *file) inlineKey(n *yaml.Node) error {
	if n == nil || n.Kind != yaml.ScalarNode {
		return nil // for Load to complain about
	}
	b, err := f.open(n.Value)
	if err != nil {
		return f.at(n, err)
	}
	k, err := cose.ParsePublic(b)
	if err != nil {
		return f.at(n, fmt.Errorf("key %s: %w", shorten(n.Value), err))
	}
	text, err := Key(k).MarshalText()
	if err != nil {
		return f.at(n, fmt.Errorf("key %s: %w", shorten(n.Value), err))
	}
	n.Value, n.Tag, n.Style = string(text), "!!str", 0
	return nil
}

// inlineRoots: a file or text may hold several certificates.
func (f *file) inlineRoots(list *yaml.Node) error {
	var roots []*yaml.Node
	for _, n := range elements(list) {
		if n.Kind != yaml.ScalarNode {
			return nil // for Load to complain about
		}
		b, err := f.open(n.Value)
		if err != nil {
			return f.at(n, err)
		}
		ders, err := certificates(b)
		if err != nil {
			return f.at(n, fmt.Errorf("root %s: %w", shorten(n.Value), err))
		}
		for _, der := range ders {
			root := *n
			root.Value, root.Tag, root.Style = string(encode64(der)), "!!str", 0
			roots = append(roots, &root)
		}
	}
	if roots != nil {
		list.Content = roots
	}
	return nil
}

const pemMark = "-----BEGIN "

// open returns PEM text as it is, else the content of the file it names.
func (f *file) open(value string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(value), pemMark) {
		return []byte(value), nil
	}
	if value == "" {
		return nil, errors.New("empty; want a file name or PEM text")
	}
	if !filepath.IsAbs(value) {
		value = filepath.Join(filepath.Dir(f.name), value)
	}
	return readFile(value)
}

// certificates reads PEM, or one certificate in DER.
func certificates(b []byte) ([][]byte, error) {
	if !bytes.Contains(b, []byte(pemMark)) {
		return [][]byte{b}, nil
	}
	var ders [][]byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %s where a CERTIFICATE belongs", quote(block.Type))
		}
		ders = append(ders, block.Bytes)
	}
	if ders == nil {
		return nil, errors.New("broken PEM")
	}
	return ders, nil
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

// shorten names what was read: the file, or the first line of the PEM text.
func shorten(value string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(value), "\n")
	return quote(first)
}
