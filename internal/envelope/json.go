package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// object is a JSON object: members by exact name, their values still encoded. It
// copies nothing, for an envelope may be large and most of it one string.
type object map[string]json.RawMessage

// maxMembers of one object; no format has more than a dozen.
const maxMembers = 64

// document reads the object that fills b.
func document(b []byte) (object, error) {
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, errors.New("not JSON")
	}
	return split(bytes.TrimSpace(b))
}

// split takes an object of valid JSON apart. What two readers could take
// differently is refused: names that are repeated, or differ in case alone.
func split(b json.RawMessage) (object, error) {
	if len(b) == 0 || b[0] != '{' {
		return nil, errors.New("not an object")
	}
	o := object{}
	folded := map[string]bool{}
	for rest := space(b[1:]); rest[0] != '}'; {
		var raw json.RawMessage
		raw, rest = value(rest)
		var name string
		if err := json.Unmarshal(raw, &name); err != nil {
			return nil, err
		}
		// Both ways, for some letters have two small forms.
		fold := strings.ToLower(strings.ToUpper(name))
		switch {
		case folded[fold]:
			return nil, fmt.Errorf("member %.64q is there twice", name)
		case len(o) == maxMembers:
			return nil, fmt.Errorf("more than %d members", maxMembers)
		}
		folded[fold] = true
		rest = space(space(rest)[1:]) // the colon
		o[name], rest = value(rest)
		if rest = space(rest); rest[0] == ',' {
			rest = space(rest[1:])
		}
	}
	return o, nil
}

// list takes an array of valid JSON apart, most elements of it at most.
func list(b json.RawMessage, most int) ([]json.RawMessage, error) {
	if len(b) == 0 || b[0] != '[' {
		return nil, errors.New("not an array")
	}
	var all []json.RawMessage
	for rest := space(b[1:]); rest[0] != ']'; {
		if len(all) == most {
			return nil, fmt.Errorf("more than %d elements", most)
		}
		var raw json.RawMessage
		raw, rest = value(rest)
		all = append(all, raw)
		if rest = space(rest); rest[0] == ',' {
			rest = space(rest[1:])
		}
	}
	return all, nil
}

func space(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

// value cuts the value that valid JSON begins with: a string, or what brackets
// enclose, or all up to the next delimiter.
func value(b []byte) (v json.RawMessage, rest []byte) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth--; depth < 0 {
				return b[:i], b[i:]
			}
		case ',', ' ', '\t', '\r', '\n', ':':
			if depth == 0 {
				return b[:i], b[i:]
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			return b[: i+1 : i+1], b[i+1:]
		}
	}
	return b, nil
}

// has says whether there is a member; protobuf writes null for one that is not there.
func (o object) has(name string) bool {
	v, ok := o[name]
	return ok && string(v) != "null"
}

func (o object) object(name string) (object, error) {
	inner, err := split(o[name])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return inner, nil
}

// list is empty when there is no such member.
func (o object) list(name string, most int) ([]json.RawMessage, error) {
	if !o.has(name) {
		return nil, nil
	}
	all, err := list(o[name], most)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// text is "" when there is no such member.
func (o object) text(name string) (string, error) {
	if !o.has(name) {
		return "", nil
	}
	var s string
	if json.Unmarshal(o[name], &s) != nil {
		return "", fmt.Errorf("%s: not a string", name)
	}
	return s, nil
}

// bytes decodes base64 of both alphabets, as DSSE demands and protobuf allows.
func (o object) bytes(name string) ([]byte, error) {
	raw := o[name]
	if len(raw) < 2 || raw[0] != '"' {
		return nil, fmt.Errorf("%s: missing", name)
	}
	encoded := raw[1 : len(raw)-1]
	if bytes.IndexByte(encoded, '\\') >= 0 { // "\/", as some write a slash
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("%s: not a string", name)
		}
		encoded = []byte(s)
	}
	alphabet := base64.StdEncoding
	if bytes.ContainsAny(encoded, "-_") {
		alphabet = base64.URLEncoding
	}
	b, err := alphabet.Strict().AppendDecode(make([]byte, 0, alphabet.DecodedLen(len(encoded))), encoded)
	if err != nil {
		return nil, fmt.Errorf("%s: not base64", name)
	}
	return b, nil
}
