package did

import (
	"bytes"
	"encoding/json"
	"io"
	"unicode/utf8"
)

// object reads a JSON object that no two readers can take differently: UTF-8,
// no name twice at any depth, nothing behind it.
func object(text []byte) (members, error) {
	if len(text) > MaxDocument {
		return nil, malformed("%d bytes, the limit is %d", len(text), MaxDocument)
	}
	if !utf8.Valid(text) {
		return nil, malformed("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := walk(dec, maxDepth); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, malformed("something stands behind the JSON object")
	}
	var m members
	if err := json.Unmarshal(text, &m); err != nil || m == nil {
		return nil, malformed("it is no JSON object")
	}
	return m, nil
}

// walk reads one value.
func walk(dec *json.Decoder, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return malformed("it is not JSON")
	}
	delim, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	if depth == 0 {
		return malformed("JSON is nested deeper than %d", maxDepth)
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			name, err := dec.Token()
			if err != nil {
				return malformed("it is not JSON")
			}
			if s, ok := name.(string); !ok || seen[s] {
				return malformed("%s is there twice", quote(s))
			} else {
				seen[s] = true
			}
		}
		if err := walk(dec, depth-1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return malformed("it is not JSON")
	}
	return nil
}

// list returns a member that must be an array where it is there, its elements
// still as text.
func (m members) list(name string, most int) ([]json.RawMessage, error) {
	raw, ok := m[name]
	if !ok {
		return nil, nil
	}
	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil || elements == nil {
		return nil, malformed("%s is not an array", name)
	}
	if len(elements) > most {
		return nil, malformed("%s has %d elements, the limit is %d", name, len(elements), most)
	}
	return elements, nil
}
