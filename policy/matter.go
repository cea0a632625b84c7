package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"time"

	"cel.dev/cel-go/common/types/ref"

	"github.com/scittd/scittd/statement"
)

// matter is a statement as rules see it. What costs something to read is read
// when the first rule asks, and once. It has one owner.
type matter struct {
	*statement.Statement
	policy    *Policy
	now       time.Time
	artifacts []statement.Digest
	who       signatory // zero before the signature was checked

	claims       map[string]any
	repositories []string
	payload      any

	shownClaims, shownPayload ref.Val // as expressions see them

	readClaims, readRepositories, readPayload bool
}

// claim returns the CWT claim of that name.
func (m *matter) claim(name string) (any, bool) {
	v, ok := m.allClaims()[name]
	return v, ok
}

func (m *matter) allClaims() map[string]any {
	if !m.readClaims {
		m.claims, m.readClaims = m.Statement.Claims(), true
	}
	return m.claims
}

// signedRepositories are those that the signed bytes name: that of the location
// in sub, and those to which the policy maps its name, for a location on another
// host is placed there. Where a statement came in says nothing here.
func (m *matter) signedRepositories() []string {
	if !m.readRepositories {
		m.repositories = m.policy.mapped(m.Statement)
		if at, ok := m.Location(); ok && !slices.Contains(m.repositories, at.Repository) {
			m.repositories = append([]string{at.Repository}, m.repositories...)
		}
		m.readRepositories = true
	}
	return m.repositories
}

// applies reports whether w selects the statement.
func (m *matter) applies(w *When) bool {
	return w == nil ||
		oneOf(w.Issuers, m.Issuer) && oneOf(w.MediaTypes, m.MediaType()) &&
			(len(w.PredicateTypes) == 0 || slices.Contains(w.PredicateTypes, m.PredicateType())) &&
			(len(w.Repositories) == 0 || slices.ContainsFunc(m.signedRepositories(), func(name string) bool { return matchesGlob(w.Repositories, name) }))
}

// oneOf reports whether list has text; an empty list has every text.
func oneOf(list []string, text string) bool { return len(list) == 0 || slices.Contains(list, text) }

func matchesGlob(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		ok, _ := path.Match(glob, name)
		return ok
	})
}

// maxJSON bounds the payload that expressions see.
const maxJSON = 64 << 10

// json is the attached payload when it is one JSON text of at most maxJSON bytes
// without repeated names, else nil: what two readers could take differently, no
// rule takes at all.
func (m *matter) json() any {
	if !m.readPayload {
		if m.Attached() && len(m.Payload) <= maxJSON {
			m.payload, _ = readJSON(m.Payload)
		}
		m.readPayload = true
	}
	return m.payload
}

var errRepeatedName = errors.New("an object has a name twice")

func readJSON(b []byte) (any, error) {
	if !json.Valid(b) { // also bounds the depth
		return nil, errors.New("no JSON text")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := readValue(dec)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON text")
	}
	return v, nil
}

// readValue reads a value of JSON that is known to be valid.
func readValue(dec *json.Decoder) (any, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(token.String(), 10, 64); err == nil {
			return n, nil
		}
		x, err := token.Float64()
		if err != nil || math.IsInf(x, 0) {
			return nil, errors.New("a number that no float64 holds")
		}
		return x, nil
	case json.Delim:
		if token == '[' {
			return readArray(dec)
		}
		return readObject(dec)
	}
	return token, nil // string, bool or nil
}

func readArray(dec *json.Decoder) (any, error) {
	list := []any{}
	for dec.More() {
		v, err := readValue(dec)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token()
	return list, err
}

func readObject(dec *json.Decoder) (any, error) {
	object := map[string]any{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		text := name.(string) // of valid JSON
		if _, twice := object[text]; twice {
			return nil, errRepeatedName
		}
		if object[text], err = readValue(dec); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return object, err
}
