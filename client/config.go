package client

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Config is the client's configuration file: named contexts, one current.
type Config struct {
	Current  string             `yaml:"current"`
	Contexts map[string]Context `yaml:"contexts"`
}

// Context is a named set of defaults for one service. File names are relative
// to the configuration file; ~/ is the home folder.
type Context struct {
	Service   string        `yaml:"service,omitempty"`
	Trust     string        `yaml:"trust,omitempty"`      // trust file
	TokenFile string        `yaml:"token-file,omitempty"` // caller's token
	Key       string        `yaml:"key,omitempty"`        // signing key
	Issuer    string        `yaml:"issuer,omitempty"`     // iss to sign as
	Issuers   []IssuerScope `yaml:"issuers,omitempty"`    // whose claims count when verifying
}

// IssuerScope is an issuer that is believed about the images that Scope
// matches: host/repository, with * at the end for all that begin so.
type IssuerScope struct {
	Issuer string `yaml:"issuer"`
	Scope  string `yaml:"scope,omitempty"`
}

// Covers says whether the rule speaks about an image, given as
// host/repository. An empty scope covers everything.
func (i IssuerScope) Covers(image string) bool {
	if prefix, open := strings.CutSuffix(i.Scope, "*"); open {
		return strings.HasPrefix(image, prefix)
	}
	return i.Scope == "" || i.Scope == image
}

// ReadConfig reads a configuration strictly; one that does not exist is empty.
// File names in it come back absolute.
func ReadConfig(file string) (Config, error) {
	var c Config
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := readYAML(text, &c); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	for name, context := range c.Contexts {
		for _, path := range []*string{&context.Trust, &context.TokenFile, &context.Key} {
			if *path, err = absolute(filepath.Dir(file), *path); err != nil {
				return c, fmt.Errorf("%s: context %s: %w", file, name, err)
			}
		}
		c.Contexts[name] = context
	}
	if _, ok := c.Contexts[c.Current]; c.Current != "" && !ok {
		return c, fmt.Errorf("%s: current names context %q, which is not there", file, c.Current)
	}
	return c, nil
}

// Write replaces the file with c, readable by its owner.
func (c Config) Write(file string) error { return writeYAML(file, c) }

func absolute(dir, path string) (string, error) {
	if rest, home := strings.CutPrefix(path, "~/"); home {
		base, err := os.UserHomeDir()
		return filepath.Join(base, rest), err
	}
	// env://VAR and the like are names of other kinds, not files.
	if path == "" || filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path, nil
	}
	return filepath.Join(dir, path), nil
}

func readYAML(text []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // nothing but comments
		}
		return err
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return cmp.Or(err, fmt.Errorf("line %d: a second document, which nobody would read", more.Line))
	}
	return nil
}

// writeYAML writes beside the file and renames, so that a crash leaves the old
// or the new one.
func writeYAML(file string, v any) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(next.Name())
	if _, err := next.Write(text); err != nil {
		next.Close()
		return err
	}
	if err := next.Close(); err != nil {
		return err
	}
	return os.Rename(next.Name(), file)
}
