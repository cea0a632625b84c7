package client

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/scittd/scittd/statement"
)

// Requirements are what a relying party asks of the claims about an artifact.
type Requirements struct {
	Issuers []IssuerRule    // whose claims count
	Claims  []RequiredClaim // each must be there
	MaxAge  time.Duration   // since registration; 0 asks nothing
}

// RequiredClaim is a kind of claim that must be there, so many times.
type RequiredClaim struct {
	Type string `json:"type"` // media or predicate type, lower case
	Want int    `json:"want"`
}

// ParseRequiredClaim reads TYPE or TYPE=N.
func ParseRequiredClaim(text string) (RequiredClaim, error) {
	kind, number := text, "1"
	if i := strings.LastIndexByte(text, '='); i >= 0 {
		kind, number = text[:i], text[i+1:]
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || kind == "" {
		return RequiredClaim{}, fmt.Errorf("%q is not TYPE or TYPE=N", text)
	}
	return RequiredClaim{strings.ToLower(kind), n}, nil
}

// And adds what more asks for: both must hold, so of two ages the shorter does.
func (r Requirements) And(more Requirements) Requirements {
	r.Issuers = slices.Concat(r.Issuers, more.Issuers)
	r.Claims = slices.Concat(r.Claims, more.Claims)
	if r.MaxAge == 0 || more.MaxAge > 0 && more.MaxAge < r.MaxAge {
		r.MaxAge = more.MaxAge
	}
	return r
}

// ReadRequirements reads a file of requirements strictly. Its words are those of
// the flags of scitt verify:
//
//	issuers: [https://wabbit.example]
//	issuerPrefixes: [https://acme.example]
//	require:
//	  - application/spdx+json
//	  - https://slsa.dev/provenance/v1=2
//	maxAge: 720h
//
// An error names the line. What is there and empty is refused, not passed over:
// whoever wrote it meant something by it.
func ReadRequirements(file string) (Requirements, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Requirements{}, err
	}
	r, err := parseRequirements(text)
	if err != nil {
		return Requirements{}, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// requirementsFile has nodes, for only they know their line, and that they are
// there although they are null.
type requirementsFile struct {
	Issuers        yaml.Node `yaml:"issuers"`
	IssuerPrefixes yaml.Node `yaml:"issuerPrefixes"`
	Require        yaml.Node `yaml:"require"`
	MaxAge         yaml.Node `yaml:"maxAge"`
}

func parseRequirements(text []byte) (r Requirements, err error) {
	var f requirementsFile
	if err := readYAML(text, &f); err != nil {
		return r, err
	}
	none := true
	for _, field := range []struct {
		name string
		node yaml.Node
		take func(text string) error
	}{
		{"issuers", f.Issuers, func(text string) error {
			r.Issuers = append(r.Issuers, IssuerRule{Issuer: text})
			return nil
		}},
		{"issuerPrefixes", f.IssuerPrefixes, func(text string) error {
			p, err := statement.ParseIssuerPrefix(text)
			r.Issuers = append(r.Issuers, IssuerRule{Prefix: p})
			return err
		}},
		{"require", f.Require, func(text string) error {
			c, err := ParseRequiredClaim(text)
			r.Claims = append(r.Claims, c)
			return err
		}},
		{"maxAge", f.MaxAge, func(text string) error {
			age, err := time.ParseDuration(text)
			if err != nil || age <= 0 {
				return fmt.Errorf("%q is no duration, such as 720h", text)
			}
			r.MaxAge = age
			return nil
		}},
	} {
		if field.node.IsZero() {
			continue
		}
		none = false
		values := []*yaml.Node{&field.node}
		if field.name != "maxAge" {
			if values = field.node.Content; field.node.Kind != yaml.SequenceNode || len(values) == 0 {
				return r, fmt.Errorf("line %d: %s is a list", field.node.Line, field.name)
			}
		}
		for _, v := range values {
			if v.Kind != yaml.ScalarNode || v.Value == "" || v.Tag == "!!null" {
				return r, fmt.Errorf("line %d: %s: something else than text", v.Line, field.name)
			}
			if err := field.take(v.Value); err != nil {
				return r, fmt.Errorf("line %d: %s: %w", v.Line, field.name, err)
			}
		}
	}
	if none {
		return r, errors.New("line 1: it asks for nothing; there are issuers, issuerPrefixes, require and maxAge")
	}
	return r, nil
}
