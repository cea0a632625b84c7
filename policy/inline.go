package policy

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/scittd/scittd/internal/cose"
)

// inline replaces every file that the document names by what the logged form has.
func (f *file) inline() error {
	for _, list := range []string{"operators", "issuers"} {
		for _, item := range elements(get(f.top(), list)) {
			if err := f.inlineSource(item); err != nil {
				return err
			}
			for _, signer := range elements(get(get(item, "evidence"), "signers")) {
				if err := f.inlineSource(signer); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// inlineSource does so for whatever n says of keys and certificates.
func (f *file) inlineSource(n *yaml.Node) error {
	if err := f.inlineKey(get(n, "key")); err != nil {
		return err
	}
	for _, by := range []string{"x509", "did"} {
		for _, list := range []struct{ member, block string }{{"roots", "CERTIFICATE"}, {"intermediates", "CERTIFICATE"}, {"crls", "X509 CRL"}} {
			if err := f.inlineDER(get(get(n, by), list.member), list.block); err != nil {
				return err
			}
		}
	}
	return f.inlineTrustedRoot(get(get(n, "oidc"), "trustedRoot"))
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

// inlineDER: a file or text may hold several certificates or lists.
func (f *file) inlineDER(list *yaml.Node, block string) error {
	var all []*yaml.Node
	for _, n := range elements(list) {
		if n.Kind != yaml.ScalarNode {
			return nil // for Load to complain about
		}
		b, err := f.open(n.Value)
		if err != nil {
			return f.at(n, err)
		}
		ders, err := blocks(b, block)
		if err != nil {
			return f.at(n, fmt.Errorf("%s: %w", shorten(n.Value), err))
		}
		for _, der := range ders {
			one := *n
			one.Value, one.Tag, one.Style = string(encode64(der)), "!!str", 0
			all = append(all, &one)
		}
	}
	if all != nil {
		list.Content = all
	}
	return nil
}

// inlineTrustedRoot reads the trusted_root.json that n names; where n is such a
// thing itself, the certificates that it names.
func (f *file) inlineTrustedRoot(n *yaml.Node) error {
	if n == nil || n.Kind != yaml.ScalarNode {
		for _, list := range []string{"certificateAuthorities", "timestampAuthorities"} {
			for _, authority := range elements(get(n, list)) {
				if err := f.inlineDER(get(authority, "chain"), "CERTIFICATE"); err != nil {
					return err
				}
			}
		}
		return nil
	}
	b, err := f.open(n.Value)
	if err != nil {
		return f.at(n, err)
	}
	t, err := ParseTrustedRoot(b)
	if err != nil {
		return f.at(n, fmt.Errorf("%s: %w", shorten(n.Value), err))
	}
	text, err := json.Marshal(t) // which is YAML, too
	if err != nil {
		return f.at(n, err)
	}
	var doc yaml.Node
	if err := yaml.Load(text, &doc); err != nil {
		return f.at(n, err)
	}
	inlined := doc.Content[0]
	relocate(inlined, n.Line, n.Column)
	*n = *inlined
	return nil
}

// relocate makes n stand where the name of its file did.
func relocate(n *yaml.Node, line, column int) {
	n.Line, n.Column = line, column
	for _, child := range n.Content {
		relocate(child, line, column)
	}
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

// blocks reads PEM of one kind, or one thing in DER.
func blocks(b []byte, kind string) ([][]byte, error) {
	if !bytes.Contains(b, []byte(pemMark)) {
		return [][]byte{b}, nil
	}
	var ders [][]byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != kind {
			return nil, fmt.Errorf("PEM block %s where a %s belongs", quote(block.Type), kind)
		}
		ders = append(ders, block.Bytes)
	}
	if ders == nil {
		return nil, errors.New("broken PEM")
	}
	return ders, nil
}

// shorten names what was read: the file, or the first line of the PEM text.
func shorten(value string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(value), "\n")
	return quote(first)
}
